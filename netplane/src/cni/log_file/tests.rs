//! Rotation: sizes, numbers, ages, and many writers at once.

use super::*;
use flate2::read::GzDecoder;
use std::collections::BTreeSet;
use std::io::Read;

const PLAIN: Rotation = Rotation { max_size: 100, max_age: None, max_backups: None, compress: false };

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|it| it.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// All lines of the file and of those that were put aside, plain or compressed.
fn lines(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for name in names(folder) {
        let mut file = File::open(folder.join(&name)).expect("a file");
        let mut text = String::new();
        match name.ends_with(".gz") {
            true => GzDecoder::new(file).read_to_string(&mut text),
            false => file.read_to_string(&mut text),
        }
        .expect("text");
        all.extend(text.lines().map(str::to_owned));
    }
    all
}

#[test]
fn a_full_file_is_put_aside_under_its_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = LogFile::new(folder.path().join("made/multus.log"), PLAIN);
    let line = [b'x'; 60];
    for _ in 0..3 {
        file.append(&line).expect("written");
    }
    let names = names(&folder.path().join("made"));
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(names[2], "multus.log");
    let (start, end) = (&names[0]["multus-".len()..names[0].len() - ".log".len()], &names[0]);
    assert!(DateTime::strptime(TIME, start).is_ok() && end.ends_with(".log"), "{names:?}");
    let mode = fs::metadata(folder.path().join("made/multus.log")).expect("a file").mode();
    assert_eq!(mode & 0o777, 0o600, "configurations of plugins may hold secrets");
    file.append(&[b'x'; 500]).expect("a line that is longer than a file has one of its own");
}

#[test]
fn no_more_than_asked_for_are_kept_and_none_that_is_too_old() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("multus-2020-01-01T00-00-00.000.log"), "old").expect("a file");
    fs::write(path("multus-2020-01-01T00-00-00.000.log.gz"), "old").expect("a file");
    fs::write(path("multus-notes.log"), "not ours").expect("a file");
    let day = Duration::from_secs(86_400);
    let rotation = Rotation { max_age: Some(day), max_backups: Some(2), ..PLAIN };
    let file = LogFile::new(path("multus.log"), rotation);
    for _ in 0..6 {
        file.append(&[b'x'; 60]).expect("written");
    }
    let names = names(folder.path());
    assert_eq!(names.len(), 4, "two, the file, and what is not ours: {names:?}");
    assert!(names.contains(&"multus-notes.log".to_owned()) && !names[0].contains("2020"), "{names:?}");
}

#[test]
fn what_was_put_aside_is_compressed_also_after_a_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let time = Timestamp::now() - SignedDuration::from_secs(3600);
    let left = format!("multus-{}.log", time.strftime(TIME));
    fs::write(folder.path().join(&left), "left by a process that was killed\n").expect("a file");
    let file = LogFile::new(folder.path().join("multus.log"), Rotation { compress: true, ..PLAIN });
    for number in 0..3 {
        file.append(format!("{number:<60}\n").as_bytes()).expect("written");
    }
    let names = names(folder.path());
    assert_eq!(names.iter().filter(|it| it.ends_with(".log.gz")).count(), 3, "{names:?}");
    assert_eq!(names.len(), 4, "{names:?}");
    let lines = lines(folder.path());
    assert_eq!(
        lines.iter().map(|it| it.trim_end()).collect::<Vec<_>>(),
        ["left by a process that was killed", "0", "1", "2"]
    );
}

#[test]
fn writers_that_rotate_at_the_same_time_lose_no_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let rotation = Rotation { max_size: 2000, compress: true, ..PLAIN };
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (folder, rotation) = (folder.path(), rotation.clone());
            // Each has a file of its own, as processes have.
            scope.spawn(move || {
                let file = LogFile::new(folder.join("multus.log"), rotation);
                for number in 0..200 {
                    file.append(format!("{writer}-{number} {:<30}\n", "").as_bytes()).expect("written");
                }
            });
        }
    });
    let lines = lines(folder.path());
    let different: BTreeSet<_> = lines.iter().collect();
    assert_eq!((lines.len(), different.len()), (1600, 1600));
    assert!(names(folder.path()).len() > 20, "it was rotated");
}

#[test]
fn a_file_that_is_removed_or_replaced_is_made_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("multus.log");
    let file = LogFile::new(path.clone(), PLAIN);
    file.append(b"one\n").expect("written");
    fs::remove_file(&path).expect("removed, as by logrotate");
    file.append(b"two\n").expect("written");
    assert_eq!(lines(folder.path()), ["two"]);
}
