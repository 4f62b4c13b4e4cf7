//! What a person asks of a boot: into what, and how it goes on.

use super::booting::{Boots, Own};
use super::desk::{no_such, seat};
use super::lending::Lending;
use super::refusal::Refusal;
use super::session::Seat;
use crate::device::ports::BootOffer;
use crate::journal::{Cursor, Entry, Item, Since};
use crate::model::device::Backend;
use crate::model::id::UserName;
use crate::model::upload::{FileRef, MAX_FILES};
use crate::plan::lease::Caller;
use crate::support::chain::Chain;
use crate::wire::boot::{
    Boot, BootBegun, BootWhat, DeviceEvent, EVENTS_OF_PAGE, EventsOf, EventsOfPage, UploadAsked, UploadLacks,
    UploadPiece, UploadTaken,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The longest that an answer is held back for an event.
const HOLD: Duration = Duration::from_secs(5);
/// The most bytes of a journal that are read for one answer, some tenths of a second of a slow disk: who asks goes on from
/// there.
const READ_AT_ONCE: usize = 16 << 20;
/// What a record takes on the disk besides what it holds, at least.
const RECORD: usize = 32;
/// The most bytes of kernel arguments of one's own.
const MAX_CMDLINE: usize = 1024;

impl Lending {
    /// Boots a device that the caller holds.
    pub(super) async fn boot(self: &Arc<Self>, by: &Caller, asked: Boot) -> Result<BootBegun, Refusal> {
        let Boot { device, what } = asked;
        let session = self.session_on(by, &device, false).await?;
        let seat_of = seat(&session, &device)?;
        boots_offers(seat_of)?;
        let boots = self.prepare(&by.user, seat_of, what).await?;
        let attempt = session.begin(seat_of, &boots).await?;
        let going_on = Arc::clone(&session);
        self.spawn(async move {
            if let Ok(seat) = seat(&going_on, &device) {
                going_on.see_through(seat, &boots, attempt).await;
            }
        });
        Ok(BootBegun { attempt })
    }

    async fn prepare(&self, user: &UserName, seat: &Seat, what: BootWhat) -> Result<Boots, Refusal> {
        let device = seat.device.device();
        let own = |name: &str, offer| Ok(Boots::Own(Own { name: format!("{name} of {user}"), offer }));
        if !matches!(what, BootWhat::Image { image: None }) {
            boots_files(seat)?;
        }
        let tree = matches!(what, BootWhat::Tree { .. } | BootWhat::Kernel { device_tree: Some(_), .. });
        if tree && device.backend == Backend::Vm {
            return Err(Refusal::hinted(
                format!(
                    "{} is a virtual machine: it has no boot ROM, and makes its own device tree",
                    device.id
                ),
                "boot a kernel: --kernel, and --initrd with it",
            ));
        }
        match what {
            BootWhat::Image { image: None } => Ok(Boots::Image(self.parts.image_of(&device.id).clone())),
            BootWhat::Image { image: Some(name) } => {
                let arch = device.model.arch().ok_or_else(|| Refusal::new("it has no architecture"))?;
                Ok(Boots::Image((self.parts.find_image)(name, arch).await?))
            }
            BootWhat::Kernel { kernel, initramfs, device_tree, cmdline } => {
                let offer = BootOffer {
                    kernel: Some(self.uploads.path(user, kernel).await?),
                    initramfs: self.optional(user, initramfs).await?,
                    device_tree: self.optional(user, device_tree).await?,
                    cmdline: words(&cmdline)?,
                    ..BootOffer::default()
                };
                own("a kernel", offer)
            }
            BootWhat::Tree { files, cmdline } => {
                if files.is_empty() || files.len() > MAX_FILES {
                    let error = format!("a boot tree has 1 to {MAX_FILES} files, not {}", files.len());
                    return Err(Refusal::new(error));
                }
                let mut tree = BTreeMap::new();
                for (path, file) in files {
                    tree.insert(path.to_string(), self.uploads.path(user, file).await?);
                }
                let offer = BootOffer { tree: Some(tree), cmdline: words(&cmdline)?, ..BootOffer::default() };
                own("a boot tree", offer)
            }
        }
    }

    async fn optional(
        &self,
        user: &UserName,
        file: Option<FileRef>,
    ) -> Result<Option<std::path::PathBuf>, Refusal> {
        match file {
            Some(file) => self.uploads.path(user, file).await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn upload_lacks(&self, by: &Caller, asked: UploadAsked) -> Result<UploadLacks, Refusal> {
        // What is in vain is told before it is sent.
        let session = self.session_on(by, &asked.device, false).await?;
        boots_files(seat(&session, &asked.device)?)?;
        Ok(UploadLacks { lacks: self.uploads.lacks(&by.user, asked.files).await? })
    }

    pub(super) async fn upload(&self, by: &Caller, piece: UploadPiece) -> Result<UploadTaken, Refusal> {
        Ok(UploadTaken { next: self.uploads.take(&by.user, piece).await? })
    }

    /// What a device's journal says, once it says something, or as much has been read as may be at once.
    pub(super) async fn events_of(&self, by: &Caller, asked: EventsOf) -> Result<EventsOfPage, Refusal> {
        let device = self.device(&asked.device).ok_or_else(|| no_such(&asked.device))?;
        let journal = device.handle.journal();
        let Some(from) = asked.from else {
            return Ok(EventsOfPage { events: Vec::new(), next: journal.next_sequence() });
        };
        let mut page = EventsOfPage { events: Vec::new(), next: from };
        let mut cursor = journal.cursor(Since::Sequence(from));
        // Those who wait must not keep others from being heard.
        let held = self.waits.hold(&by.user);
        let wait = if held.is_some() { asked.wait.min(HOLD) } else { Duration::ZERO };
        let done = fill(&mut page, &mut cursor, Instant::now() + wait, READ_AT_ONCE).await;
        done.map_err(|e| Refusal::new(format!("the journal cannot be read: {}", Chain(&e))))?;
        Ok(page)
    }
}

fn boots_offers(seat: &Seat) -> Result<(), Refusal> {
    if seat.boots_what_is_offered() {
        return Ok(());
    }
    Err(Refusal::hinted(
        format!("{} boots what it finds by itself", seat.id()),
        "boot = \"netboot\" in the lab file lets the lab boot it; pilab power cycle boots what is there",
    ))
}

/// Whether it can boot anything but what the lab has for it.
fn boots_files(seat: &Seat) -> Result<(), Refusal> {
    boots_offers(seat)?;
    if seat.has_card() {
        return Err(Refusal::hinted(
            format!("{} boots from its own card and nothing else", seat.id()),
            "boot = \"netboot\" in the lab file lets the lab boot it",
        ));
    }
    if seat.device.device().backend != Backend::Container {
        return Ok(());
    }
    Err(Refusal::new(format!("{} is a container: it boots its agent and nothing else", seat.id())))
}

/// All that is there, of so many bytes; and while that is nothing, what comes until the deadline.
async fn fill(
    page: &mut EventsOfPage,
    cursor: &mut Cursor,
    deadline: Instant,
    mut bytes_left: usize,
) -> Result<(), crate::journal::JournalError> {
    while page.events.len() < EVENTS_OF_PAGE && bytes_left > 0 {
        let item = match cursor.next_written().await? {
            Some(item) => item,
            None if page.events.is_empty() => match timeout_at(deadline, cursor.next()).await {
                Ok(item) => item?,
                Err(_) => return Ok(()),
            },
            None => return Ok(()),
        };
        match item {
            Item::Record(record) => {
                page.next = record.sequence + 1;
                bytes_left = bytes_left.saturating_sub(RECORD);
                match record.entry {
                    Entry::Event(event) => {
                        page.events.push(DeviceEvent { at: record.stamp, attempt: record.attempt, event });
                    }
                    Entry::Console { bytes, .. } => bytes_left = bytes_left.saturating_sub(bytes.len()),
                    Entry::Cut { .. } => {}
                }
            }
            Item::Missing { to, .. } => page.next = to,
        }
    }
    Ok(())
}

/// Kernel arguments, which end with their line.
fn words(cmdline: &str) -> Result<Vec<String>, Refusal> {
    if cmdline.len() > MAX_CMDLINE || cmdline.bytes().any(|byte| byte < b' ' || byte == 127) {
        let error = format!("kernel arguments are one line of at most {MAX_CMDLINE} bytes");
        return Err(Refusal::new(error));
    }
    Ok(cmdline.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{self, Options};
    use crate::model::boot::BootAttempt;
    use crate::model::event::Event;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    /// Nobody's question reads a journal of a gigabyte at once, and each answer gets further.
    #[tokio::test]
    async fn a_long_journal_is_read_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let (handle, task) = journal::open(dir.path(), Options::default()).await.unwrap();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        tracker.spawn(task.run(stop.clone()));
        for at in 0..100 {
            handle.console(BootAttempt(1), at * 100, vec![b'x'; 100].into()).await.unwrap();
        }
        handle.event(BootAttempt(1), Event::ConsoleOpened {}).await.unwrap();
        let (mut next, mut pages) = (0, Vec::new());
        loop {
            let mut page = EventsOfPage { events: Vec::new(), next };
            let mut cursor = handle.cursor(Since::Sequence(next));
            fill(&mut page, &mut cursor, Instant::now(), 1000).await.unwrap();
            assert!(page.next > next, "it gets further");
            next = page.next;
            pages.push(page.events.len());
            if !page.events.is_empty() {
                break;
            }
        }
        assert_eq!((pages.last(), next), (Some(&1), handle.next_sequence()));
        assert!(pages.len() > 10, "{pages:?}");
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
