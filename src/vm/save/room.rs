//! The bound of the saves of all slots: which of them go, so that they take no more of the disk than they may.

use super::{Record, Slot};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How much the saves below a root take together at the most, and which of them are of use.
#[derive(Debug)]
pub struct Room {
    /// Where the slots are.
    pub root: PathBuf,
    /// In bytes.
    pub most: u64,
    /// The slots of the lab's devices.
    pub slots: BTreeSet<String>,
    /// The files of the image that is started.
    pub needs: Vec<PathBuf>,
}

/// Whether a save will be restored again, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    /// Never: its image is gone, or it was not finished.
    None,
    /// Perhaps: it is another image's, another lab's, or of a machine that is no more.
    Perhaps,
    /// By the next start of a device of this lab.
    Next,
}

/// What there is of one save.
#[derive(Debug)]
struct Stored {
    slot: String,
    key: String,
    bytes: u64,
    /// When it was made or restored last.
    used: Option<SystemTime>,
    worth: Worth,
}

/// Those that go, so that what stays takes no more than `most` if that can be: all without worth, then those that were not
/// used for the longest time. What the next start restores stays: it would be made again at once.
fn surplus(most: u64, saves: &[Stored]) -> Vec<&Stored> {
    let (mut go, stay): (Vec<&Stored>, Vec<&Stored>) =
        saves.iter().partition(|save| save.worth == Worth::None);
    let mut taken: u64 = stay.iter().map(|save| save.bytes).sum();
    let mut may: Vec<_> = stay.into_iter().filter(|save| save.worth == Worth::Perhaps).collect();
    may.sort_by_key(|save| save.used);
    for save in may {
        if taken <= most {
            break;
        }
        taken -= save.bytes;
        go.push(save);
    }
    go
}

impl Room {
    /// Makes room for one save more, which is taken to be as large as the largest that is there. `own` is the slot that it
    /// will be in.
    pub fn before(&self, own: &Slot) -> io::Result<()> {
        let saves = self.stored()?;
        let largest = saves.iter().filter(|save| save.worth != Worth::None).map(|save| save.bytes).max();
        self.fit(&saves, largest.unwrap_or(0).max(1), own)
    }

    /// Keeps the bound now that a save has been made in `own`.
    pub fn after(&self, own: &Slot) -> io::Result<()> {
        self.fit(&self.stored()?, 0, own)
    }

    fn fit(&self, saves: &[Stored], more: u64, own: &Slot) -> io::Result<()> {
        let mut taken: u64 = saves.iter().map(|save| save.bytes).sum();
        for save in surplus(self.most.saturating_sub(more), saves) {
            taken -= self.remove(save, own)?;
        }
        if taken.saturating_add(more) > self.most {
            let (taken, most) = (taken >> 20, self.most >> 20);
            let text = format!("saved memory that is in use takes {taken} MiB, and {most} MiB is the most");
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        Ok(())
    }

    /// Answers how many bytes that freed: none where somebody has the slot, or has used the save meanwhile.
    fn remove(&self, save: &Stored, own: &Slot) -> io::Result<u64> {
        let taken;
        let slot = if own.dir == self.root.join(&save.slot) {
            own
        } else {
            // Held for no longer than it takes: a start that finds it held boots.
            let Some(slot) = Slot::take(&self.root, &save.slot)? else { return Ok(0) };
            taken = slot;
            &taken
        };
        if used(&slot.file(&save.key, "json")) != save.used {
            return Ok(0);
        }
        tracing::info!(slot = save.slot, mib = save.bytes >> 20, "saved memory is removed, to make room");
        slot.remove(&save.key).map(|freed| freed.min(save.bytes))
    }

    /// All that there are. No slot is held: what others change meanwhile is seen when something is removed.
    fn stored(&self) -> io::Result<Vec<Stored>> {
        let mut saves = Vec::new();
        for slot in fs::read_dir(&self.root)? {
            let slot = slot?;
            if !slot.file_type()?.is_dir() {
                continue;
            }
            let name = slot.file_name().to_string_lossy().into_owned();
            let files = fs::read_dir(slot.path())?.map(|file| Ok(file?.path()));
            let files: Vec<PathBuf> = files.collect::<io::Result<_>>()?;
            let keys: BTreeSet<&str> = files
                .iter()
                .filter(|file| file.extension().is_some_and(|kind| kind == "save" || kind == "part"))
                .filter_map(|file| file.file_stem()?.to_str())
                .collect();
            let mut of_slot: Vec<_> =
                keys.into_iter().map(|key| self.look(&slot.path(), &name, key)).collect();
            // Of two of this image, one is of a libvirt or a processor that was.
            of_slot.sort_by_key(|save| std::cmp::Reverse(save.used));
            let next = of_slot.iter_mut().filter(|save| save.worth == Worth::Next).skip(1);
            next.for_each(|save| save.worth = Worth::Perhaps);
            saves.extend(of_slot);
        }
        Ok(saves)
    }

    fn look(&self, dir: &Path, slot: &str, key: &str) -> Stored {
        let file = |kind: &str| dir.join(format!("{key}.{kind}"));
        let size = |kind| fs::metadata(file(kind)).map_or(0, |meta| meta.len());
        let json = file("json");
        let used = used(&json);
        let record = fs::read(&json).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let worth = match record {
            Some(record) if !record.needs.iter().all(|file| file.exists()) => Worth::None,
            Some(record) if record.needs == self.needs && self.slots.contains(slot) => Worth::Next,
            Some(_) => Worth::Perhaps,
            None => Worth::None,
        };
        Stored { slot: slot.to_owned(), key: key.to_owned(), bytes: size("save") + size("part"), used, worth }
    }
}

/// When a save was made or restored last, by its record.
fn used(record: &Path) -> Option<SystemTime> {
    fs::metadata(record).and_then(|meta| meta.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::time::Duration;

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    fn stored(key: &str, bytes: u64, used: u64, worth: Worth) -> Stored {
        Stored { slot: "vm".to_owned(), key: key.to_owned(), bytes, used: at(used), worth }
    }

    #[test]
    fn the_useless_go_then_the_longest_unused_and_never_what_is_restored_next() {
        let saves = [
            stored("next", 4, 1, Worth::Next),
            stored("young", 3, 9, Worth::Perhaps),
            stored("old", 3, 2, Worth::Perhaps),
            stored("gone", 5, 9, Worth::None),
        ];
        let table: [(u64, &[&str]); 5] = [
            (100, &["gone"]),
            (10, &["gone"]),
            (9, &["gone", "old"]),
            (6, &["gone", "old", "young"]),
            (0, &["gone", "old", "young"]),
        ];
        for (most, expected) in table {
            let go: Vec<_> = surplus(most, &saves).into_iter().map(|save| save.key.as_str()).collect();
            assert_eq!(go, expected, "{most}");
        }
    }

    proptest! {
        #[test]
        fn what_stays_fits_unless_all_of_it_is_restored_next(
            most in 0_u64..300,
            saves in prop::collection::vec((1_u64..50, 0_u64..50, 0_u8..3), 0..20),
        ) {
            let worth = |n| [Worth::None, Worth::Perhaps, Worth::Next][usize::from(n)];
            let saves: Vec<_> =
                saves.into_iter().map(|(bytes, used, n)| stored("k", bytes, used, worth(n))).collect();
            let go = surplus(most, &saves);
            prop_assert!(go.iter().all(|save| save.worth != Worth::Next));
            let gone = |save: &&Stored| go.iter().any(|other| std::ptr::eq(*other, *save));
            let stay: Vec<_> = saves.iter().filter(|save| !gone(save)).collect();
            let fits = stay.iter().map(|save| save.bytes).sum::<u64>() <= most;
            prop_assert!(fits || stay.iter().all(|save| save.worth == Worth::Next));
            prop_assert!(stay.iter().all(|save| save.worth != Worth::None));
        }
    }

    /// A root of saves, each of one MiB.
    struct Place {
        dir: tempfile::TempDir,
        slots: BTreeSet<String>,
    }

    impl Place {
        fn new(slots: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for image in ["image", "another", "gone"] {
                fs::write(dir.path().join(image), "").unwrap();
            }
            Self { dir, slots: slots.iter().map(|&slot| slot.to_owned()).collect() }
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("warm")
        }

        fn take(&self, slot: &str) -> Slot {
            Slot::take(&self.root(), slot).unwrap().unwrap()
        }

        /// Makes one that was used so many seconds after the beginning.
        fn make(&self, slot: &Slot, key: &str, image: &str, second: u64) {
            fs::write(slot.begin(key, 1).unwrap(), vec![0; 1 << 20]).unwrap();
            slot.finish(key, vec![self.dir.path().join(image)]).unwrap();
            let record = File::options().write(true).open(slot.file(key, "json")).unwrap();
            record.set_modified(at(second).unwrap()).unwrap();
        }

        fn left(&self) -> Vec<String> {
            let slots = fs::read_dir(self.root()).unwrap().flatten();
            let files = slots.flat_map(|slot| fs::read_dir(slot.path()).unwrap().flatten());
            let names = files.map(|file| file.file_name().into_string().unwrap());
            let mut saves: Vec<_> =
                names.filter_map(|name| Some(name.strip_suffix(".save")?.to_owned())).collect();
            saves.sort();
            saves
        }

        fn room(&self, mib: u64) -> Room {
            let needs = vec![self.dir.path().join("image")];
            Room { root: self.root(), most: mib << 20, slots: self.slots.clone(), needs }
        }

        fn before(&self, mib: u64, own: &Slot) -> Result<(), String> {
            self.room(mib).before(own).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn room_is_made_by_what_nobody_would_restore_and_a_slot_that_is_held_is_left_alone() {
        let place = Place::new(&["vm-1", "vm-2"]);
        let (one, two, other) = (place.take("vm-1"), place.take("vm-2"), place.take("other"));
        place.make(&one, "a-before", "another", 1);
        place.make(&two, "b-now", "image", 0);
        place.make(&other, "c-of-another-lab", "image", 2);
        place.make(&other, "d-gone", "gone", 9);
        fs::remove_file(place.dir.path().join("gone")).unwrap();
        fs::write(other.file("e-half", "part"), "half").unwrap();
        drop((two, other));

        let held = place.take("other");
        place.before(6, &one).unwrap();
        assert_eq!(place.left(), ["a-before", "b-now", "c-of-another-lab", "d-gone"], "it is held");
        drop(held);
        place.before(5, &one).unwrap();
        assert_eq!(place.left(), ["a-before", "b-now", "c-of-another-lab"]);
        assert!(!place.root().join("other/e-half.part").exists());

        // One's own slot is held by oneself.
        place.before(3, &one).unwrap();
        assert_eq!(place.left(), ["b-now", "c-of-another-lab"]);
        let held = place.take("other");
        let full = "saved memory that is in use takes 2 MiB, and 2 MiB is the most";
        assert_eq!(place.before(2, &one), Err(full.to_owned()));
        drop(held);
        place.before(2, &one).unwrap();
        assert_eq!(place.left(), ["b-now"]);
        let full = "saved memory that is in use takes 1 MiB, and 1 MiB is the most";
        assert_eq!(place.before(1, &one), Err(full.to_owned()));
        assert_eq!(place.left(), ["b-now"], "it would be made again at once");
    }

    #[test]
    fn what_was_restored_meanwhile_stays() {
        let place = Place::new(&["vm-1"]);
        let (one, other) = (place.take("vm-1"), place.take("other"));
        place.make(&other, "a", "image", 1);
        let room = place.room(0);
        let seen = room.stored().unwrap();
        assert!(other.find("a").unwrap().is_ok());
        drop(other);
        assert!(room.fit(&seen, 1, &one).is_err());
        assert_eq!(place.left(), ["a"]);
        assert!(room.before(&one).is_err());
        assert_eq!(place.left(), Vec::<String>::new(), "and goes once that is over");
    }
}
