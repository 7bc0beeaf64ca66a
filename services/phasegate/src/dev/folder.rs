//! The data folder of `phasegate dev`: one process at a time, and the installation's secret.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use phasegate_serve::Keys;

/// A folder that this process holds until it ends.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Locked; the system releases it when the process ends, however it ends.
    _lock: File,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses it.
    #[error("{} is in use by another phasegate process; stop that one, or choose another folder with --data", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("{} cannot be used as a data folder", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The secret in it is damaged.
    #[error("{} does not hold a secret of 64 hexadecimal digits; restore it, or move the folder away", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
    },
}

impl Folder {
    /// Makes the folder where it is missing, and takes it for this process.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys of the installation: from the folder's secret, which is made the first time.
    pub fn keys(&self) -> Result<Keys, Error> {
        let path = self.path.join("secret");
        let secret = match File::open(&path) {
            Ok(mut file) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(|source| Error::Io { path: path.clone(), source })?;
                parse(&text).ok_or(Error::Secret { path })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = Keys::secret();
                write(&path, &secret).map_err(|source| Error::Io { path, source })?;
                secret
            }
            Err(source) => return Err(Error::Io { path, source }),
        };
        Ok(Keys::derive(&secret))
    }
}

fn parse(text: &str) -> Option<[u8; 32]> {
    hex::decode(text.trim()).ok()?.try_into().ok()
}

/// Whole or not at all, and for the owner only.
fn write(path: &Path, secret: &[u8; 32]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(&draft)?;
    writeln!(file, "{}", hex::encode(secret))?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = Folder::open(&path).unwrap();
        // Another handle stands for another process: locks belong to the open file.
        assert!(matches!(Folder::open(&path), Err(Error::InUse { .. })));
        drop(first);
        Folder::open(&path).unwrap();
    }

    #[test]
    fn the_secret_stays() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        let link = folder.keys().unwrap().link;
        assert_eq!(folder.keys().unwrap().link.signing(), link.signing());
        std::fs::write(parent.path().join("secret"), "short").unwrap();
        assert!(matches!(folder.keys(), Err(Error::Secret { .. })));
    }
}
