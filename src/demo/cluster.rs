//! The files of a throwaway server: a directory of their own, owned by whoever runs the server, gone at the end.
//!
//! The end may be a crash of this process, in which no destructor runs. So a shell waits on a pipe whose other end only
//! this process holds: when the pipe closes, for whatever reason, it stops the server and removes the directory. (A
//! parent-death signal would do less, would follow the thread that started the server rather than the process, and needs
//! either unsafe code or a program that not every system has.)

use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::{Gid, Uid, User};

use crate::error::Failure;

/// Stops the server with an immediate shutdown, which takes no time and cleans up shared memory, then removes its files.
const UNDERTAKER: &str = r#"
read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" && {
    left=100
    while kill -0 "$pid" && [ $left -gt 0 ]; do left=$((left - 1)); sleep 0.1; done
}
cd / && rm -rf "$1"
"#;

/// The user that owns the files and runs the server, where that is not the user of this process.
#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: Uid,
    gid: Gid,
}

/// An initialised data directory that no server has run on yet.
#[derive(Debug)]
pub struct Cluster {
    folder: Folder,
    bin: PathBuf,
    owner: Option<Owner>,
    password: String,
}

impl Cluster {
    /// Runs `initdb` of the server in `bin`: UTF8, collation C, superuser `postgres` with a random password over TCP and
    /// none over the Unix socket, whose directory nobody else may enter.
    pub fn initdb(bin: &Path) -> Result<Cluster, Failure> {
        let owner = owner()?;
        let folder = Folder::create(owner)?;
        let password = format!("{:032x}", rand::random::<u128>());
        let password_file = folder.path.join("password");
        write_owned(&password_file, &password, owner)?;
        let cluster = Cluster { folder, bin: bin.to_owned(), owner, password };
        let mut initdb = cluster.command("initdb");
        initdb.args(["--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256"]);
        initdb.arg("--pwfile").arg(&password_file).arg("--pgdata").arg(cluster.data_dir());
        run(&mut initdb).map_err(|failure| {
            failure.hint("The user that runs the server must be able to read and execute its programs.")
        })?;
        Ok(cluster)
    }

    /// A copy of what [`Cluster::save`] kept: many times faster than `initdb`.
    pub fn copy_of(saved: &Path, bin: &Path) -> Result<Cluster, Failure> {
        let owner = owner()?;
        let folder = Folder::create(owner)?;
        copy(&saved.join("data"), &folder.path)?;
        copy(&saved.join("password"), &folder.path)?;
        // They may have been saved for another user, or restored from a cache that forgets owners.
        if let Some(Owner { uid, gid }) = owner {
            run(Command::new("chown").arg("-R").arg(format!("{uid}:{gid}")).arg(&folder.path))?;
        }
        let password_file = folder.path.join("password");
        let password =
            std::fs::read_to_string(&password_file).map_err(|e| cannot("read", &password_file, &e))?.trim().to_owned();
        Ok(Cluster { folder, bin: bin.to_owned(), owner, password })
    }

    /// Keeps the files in the new directory `to`, for [`Cluster::copy_of`].
    pub fn save(&self, to: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(to).map_err(|e| cannot("create", to, &e))?;
        copy(&self.data_dir(), to)?;
        copy(&self.directory().join("password"), to)
    }

    /// The directory that holds everything; its Unix socket directory, too.
    pub(super) fn directory(&self) -> &Path {
        &self.folder.path
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path.join("data")
    }

    /// The superuser's password.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// A program of this server, run by the owner of the files, out of reach of the terminal's signals and of this
    /// process's own `PG…` settings.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("TZ", "UTC").current_dir(self.directory()).process_group(0);
        run_as(&mut command, self.owner);
        command
    }
}

/// The directory, and the shell that removes it if this process cannot.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    undertaker: Child,
}

impl Folder {
    fn create(owner: Option<Owner>) -> Result<Folder, Failure> {
        let name = format!("pgrecast-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = parent_directory().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| cannot("create", &path, &e))?;
        own(&path, owner)?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", UNDERTAKER, "sh"]).arg(&path).current_dir("/").process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        run_as(&mut shell, owner);
        let undertaker = shell.spawn().map_err(|e| cannot("run", Path::new("/bin/sh"), &e))?;
        Ok(Folder { path, undertaker })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Whatever is left for whatever reason, the shell tries once more when its pipe closes.
        let _ = std::fs::remove_dir_all(&self.path);
        drop(self.undertaker.stdin.take());
        let _ = self.undertaker.wait();
    }
}

/// `TMPDIR` if set; else `/var/tmp` rather than `/tmp`, which can be memory, and small.
fn parent_directory() -> PathBuf {
    let wide = Path::new("/var/tmp");
    if std::env::var_os("TMPDIR").is_none() && wide.is_dir() { wide.to_owned() } else { std::env::temp_dir() }
}

/// PostgreSQL refuses to run as root: `PGRECAST_SERVER_USER`, else `postgres`, else `nobody` runs it then.
fn owner() -> Result<Option<Owner>, Failure> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let asked = std::env::var("PGRECAST_SERVER_USER").ok();
    let names: Vec<&str> = asked.as_deref().map_or(vec!["postgres", "nobody"], |name| vec![name]);
    for name in &names {
        if let Ok(Some(user)) = User::from_name(name) {
            return Ok(Some(Owner { uid: user.uid, gid: user.gid }));
        }
    }
    Err(Failure::failed("no unprivileged user to run the server as")
        .detail(format!("There is no user {}.", names.join(" or ")))
        .hint("Name one in PGRECAST_SERVER_USER, or run this as an unprivileged user."))
}

fn run_as(command: &mut Command, owner: Option<Owner>) {
    if let Some(owner) = owner {
        command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
    }
}

fn own(path: &Path, owner: Option<Owner>) -> Result<(), Failure> {
    let Some(owner) = owner else { return Ok(()) };
    chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).map_err(|e| cannot("give away", path, &e))
}

fn write_owned(path: &Path, text: &str, owner: Option<Owner>) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|e| cannot("write", path, &e))?;
    own(path, owner)
}

/// Copies a file or a whole directory into `to`, modes included.
fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    run(Command::new("cp").arg("-Rp").arg(from).arg(to))
}

/// Runs a program that says nothing unless it fails.
fn run(command: &mut Command) -> Result<(), Failure> {
    let program = PathBuf::from(command.get_program());
    let output = command.stdin(Stdio::null()).output().map_err(|e| cannot("run", &program, &e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::failed(format!("{} ended with {}", program.display(), output.status)).detail(said.trim()))
}

pub(super) fn cannot(verb: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot {verb} {}: {error}", path.display()))
}
