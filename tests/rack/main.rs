//! The rack level: simulated boards that boot by DHCP, TFTP and HTTP from the real servers, with their real ports, on wires of
//! their own, and then run what they got on QEMU. Needs root and the image of `pilab image build --arch aarch64`;
//! `PILAB_RACK_E2E=1` asks for it.

mod library;
