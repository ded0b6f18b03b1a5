//! The closed set of things an agent can be asked to do, and how it answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// First frame of an agent: its identity. Sent before it reads anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the agent
    pub protocol: u32,
    /// the agent's crate version
    pub version: String,
    /// SHA-256 (hex) of the agent's own program file
    pub digest: String,
    /// numeric user id it runs as
    pub uid: u32,
}

/// One request. Requests are answered in the order in which they came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// chosen by the orchestrator, repeated in the answer
    pub id: u64,
    /// Requests with one batch number travel together: when one of them fails, the rest of the batch is
    /// answered with [`Status::NotRun`].
    pub batch: u64,
    /// compare and report, do not act
    #[serde(default)]
    pub check: bool,
    /// a failure of this request does not stop its batch
    #[serde(default)]
    pub ignore_errors: bool,
    /// contents must not appear in diffs or messages
    #[serde(default)]
    pub no_log: bool,
    /// what to do; file contents and blob chunks travel in the frame's tail
    pub action: Action,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// id of the request
    pub id: u64,
    /// what happened
    pub outcome: Outcome,
}

/// How an action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// the host was already as asked for
    Ok,
    /// the host was changed (in check mode: would be)
    Changed,
    /// it could not be done
    Failed,
    /// in check mode: cannot be known without acting; or a condition such as `creates` held
    Skipped,
    /// an earlier request of the batch failed, or it was cancelled before it began
    NotRun,
}

/// The answer to an action: status, a message, a diff where one makes sense, and named values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// how it ended
    pub status: Status,
    /// why it failed, or what was done
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub msg: String,
    /// unified diff of what changed
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// results by name, as Ansible's modules return them (`rc`, `stdout`, `stat`, …)
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, serde_json::Value>,
}

impl Outcome {
    /// An outcome with a status and nothing else.
    pub fn new(status: Status) -> Self {
        Self { status, msg: String::new(), diff: None, values: BTreeMap::new() }
    }
    /// [`Status::Ok`]
    pub fn ok() -> Self {
        Self::new(Status::Ok)
    }
    /// [`Status::Changed`] or [`Status::Ok`]
    pub fn changed_if(changed: bool) -> Self {
        Self::new(if changed { Status::Changed } else { Status::Ok })
    }
    /// [`Status::Failed`] with a reason
    pub fn failed(msg: impl Into<String>) -> Self {
        Self { msg: msg.into(), ..Self::new(Status::Failed) }
    }
    /// Adds a message.
    pub fn with_msg(mut self, msg: impl Into<String>) -> Self {
        self.msg = msg.into();
        self
    }
    /// Adds a diff.
    pub fn with_diff(mut self, diff: Option<String>) -> Self {
        self.diff = diff.filter(|d| !d.is_empty());
        self
    }
    /// Adds a named value.
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.values.insert(name.to_owned(), value.into());
        self
    }
}

/// Owner, group and mode that a path is to have; what is `None` is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// user name or number
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// group name or number
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// permission bits, 0 to 0o7777
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// what changes of the bits that are there, in place of `mode`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode_change: Option<crate::ModeChange>,
}

/// Where a file's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// the tail of the frame
    Tail,
    /// a blob of the host's store, by SHA-256 (hex)
    Stored(String),
    /// another file on the same host
    HostFile(String),
}

/// State of a path for [`Action::File`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// must exist as a regular file; only its attributes are set
    File,
    /// a directory, made with its parents
    Directory,
    /// nothing is there; a directory goes with all that is in it
    Absent,
    /// an empty file is made where there is none; the times of one that is there are set to now
    Touch,
    /// an empty file is made where there is none
    Exists,
    /// whatever is there; only its attributes are set
    Any,
    /// a symbolic link to `src`
    Link,
}

/// State of a unit for [`Action::Systemd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitState {
    /// running
    Started,
    /// not running
    Stopped,
    /// stopped and started, always a change
    Restarted,
    /// told to reload, or restarted where it cannot
    Reloaded,
}

/// State that [`Action::WaitFor`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitState {
    /// the port accepts connections, or the path exists
    Started,
    /// the port refuses connections, or the path is gone
    Stopped,
}

/// Where a line or block goes in a file that does not hold it yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Insert {
    /// at the end
    #[default]
    Eof,
    /// at the beginning
    Bof,
    /// behind the last line that matches
    After(String),
    /// before the last line that matches
    Before(String),
}

/// What an agent can do. Each is idempotent, or documents why it is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Action {
    /// What the host is: names, addresses, distribution, memory, init system.
    Facts,
    /// Which of these blobs (SHA-256, hex) the store lacks: value `missing`.
    Missing {
        /// digests asked about
        digests: Vec<String>,
    },
    /// One chunk of a blob, in the tail. The last chunk is checked against the digest before the blob
    /// gets its name.
    PutBlob {
        /// SHA-256 (hex) of the whole blob
        digest: String,
        /// where this chunk starts
        offset: u64,
        /// length of the whole blob
        total: u64,
        /// Its bytes are a secret: the agent keeps it without a name, until it is used once or the agent ends.
        #[serde(default)]
        private: bool,
    },
    /// A file with these bytes and attributes, replaced atomically.
    Copy {
        /// where it goes
        path: String,
        /// its bytes
        content: Content,
        /// owner, group, mode
        #[serde(default)]
        attributes: Attributes,
        /// leave a file alone that exists, whatever is in it
        #[serde(default)]
        keep_existing: bool,
        /// keep the old one beside the new one, with a time stamp in its name
        #[serde(default)]
        backup: bool,
        /// a command that must end with 0 before the file is put in place; `%s` is the new file
        #[serde(default)]
        validate: Option<String>,
        /// Follow every link in `path`. Otherwise a link at its end is replaced, and links on the way are followed only if
        /// no other account can have made them.
        #[serde(default)]
        follow: bool,
        /// the file's name where `path` is a directory, or ends with `/`, which makes one; without it a directory is an error
        #[serde(default)]
        name_in_directory: Option<String>,
    },
    /// A path's kind and attributes.
    File {
        /// the path
        path: String,
        /// what is to be there
        state: FileState,
        /// target of a link
        #[serde(default)]
        src: Option<String>,
        /// owner, group, mode
        #[serde(default)]
        attributes: Attributes,
        /// set the attributes on all that is in a directory too
        #[serde(default)]
        recurse: bool,
        /// `true`: follow every link in `path`; `false`: never one at its end; not given: those that no other account can
        /// have made. A link that is to be made or removed is not followed.
        #[serde(default)]
        follow: Option<bool>,
    },
    /// One line in a file.
    Lineinfile {
        /// the file
        path: String,
        /// the line, without its end
        #[serde(default)]
        line: Option<String>,
        /// the line to replace (the last that matches) or remove (each that matches)
        #[serde(default)]
        regexp: Option<String>,
        /// `line` refers to groups of `regexp`, as `\\1` or `\\g<name>`; where nothing matches, nothing changes
        #[serde(default)]
        backrefs: bool,
        /// remove instead
        #[serde(default)]
        absent: bool,
        /// where a new line goes
        #[serde(default)]
        insert: Insert,
        /// make the file if there is none
        #[serde(default)]
        create: bool,
        /// owner, group, mode
        #[serde(default)]
        attributes: Attributes,
    },
    /// A block between two marker lines in a file.
    Blockinfile {
        /// the file
        path: String,
        /// the lines; empty removes the block
        block: String,
        /// the line before the block
        begin: String,
        /// the line behind the block
        end: String,
        /// where a new block goes
        #[serde(default)]
        insert: Insert,
        /// make the file if there is none
        #[serde(default)]
        create: bool,
        /// owner, group, mode
        #[serde(default)]
        attributes: Attributes,
    },
    /// A user account.
    User {
        /// login name
        name: String,
        /// remove instead
        #[serde(default)]
        absent: bool,
        /// numeric id
        #[serde(default)]
        uid: Option<u32>,
        /// primary group
        #[serde(default)]
        group: Option<String>,
        /// its further groups, and no others; `None` leaves them as they are
        #[serde(default)]
        groups: Option<Vec<String>>,
        /// other groups that it is in already stay
        #[serde(default)]
        append: bool,
        /// home directory
        #[serde(default)]
        home: Option<String>,
        /// make the home directory
        #[serde(default)]
        create_home: bool,
        /// login shell
        #[serde(default)]
        shell: Option<String>,
        /// a system account
        #[serde(default)]
        system: bool,
        /// full name or remark (the GECOS field)
        #[serde(default)]
        comment: Option<String>,
    },
    /// A group.
    Group {
        /// its name
        name: String,
        /// remove instead
        #[serde(default)]
        absent: bool,
        /// numeric id
        #[serde(default)]
        gid: Option<u32>,
        /// a system group
        #[serde(default)]
        system: bool,
    },
    /// The host's own name, now and at the next boot.
    Hostname {
        /// the short name
        name: String,
    },
    /// The time zone.
    Timezone {
        /// a name of the tz database
        name: String,
    },
    /// A systemd unit.
    Systemd {
        /// the unit; empty with `daemon_reload` alone
        #[serde(default)]
        name: String,
        /// state to bring it to
        #[serde(default)]
        state: Option<UnitState>,
        /// start at boot
        #[serde(default)]
        enabled: Option<bool>,
        /// read the unit files again first
        #[serde(default)]
        daemon_reload: bool,
        /// With `started`: restart a unit that runs since before one of these files last changed. This needs no
        /// memory of an earlier run, so a run that was cut off between file and restart is completed by the next.
        #[serde(default)]
        restart_if_newer: Vec<String>,
        /// seconds that starting may take
        #[serde(default)]
        timeout_s: Option<u64>,
    },
    /// A program, without a shell, or a shell script. Not idempotent unless `creates` or `removes` is given.
    Command {
        /// program and arguments
        argv: Vec<String>,
        /// working directory
        #[serde(default)]
        chdir: Option<String>,
        /// skip when this path exists
        #[serde(default)]
        creates: Option<String>,
        /// skip when this path does not exist
        #[serde(default)]
        removes: Option<String>,
        /// bytes for its standard input
        #[serde(default)]
        stdin: Option<String>,
        /// further environment
        #[serde(default)]
        environment: BTreeMap<String, String>,
        /// seconds after which it is killed; 0 for none
        #[serde(default)]
        timeout_s: u64,
        /// it only reads: run it in check mode too
        #[serde(default)]
        check_safe: bool,
        /// `$NAME` and a leading `~` in arguments stand for the environment's values
        #[serde(default)]
        expand: bool,
    },
    /// Waits for a port or a path.
    WaitFor {
        /// host to connect to
        #[serde(default)]
        host: Option<String>,
        /// TCP port
        #[serde(default)]
        port: Option<u16>,
        /// path
        #[serde(default)]
        path: Option<String>,
        /// what to wait for
        state: WaitState,
        /// seconds to wait at the most
        timeout_s: u64,
        /// seconds to wait first
        #[serde(default)]
        delay_s: u64,
    },
    /// What is at a path: value `stat`.
    Stat {
        /// the path
        path: String,
        /// follow a link
        #[serde(default)]
        follow: bool,
        /// compute the checksum of a file: SHA-1, as Ansible's
        #[serde(default)]
        checksum: bool,
        /// make it SHA-256
        #[serde(default)]
        sha256: bool,
    },
    /// The contents of a file (at most 1 MiB) in Base64: value `content`.
    Slurp {
        /// the file
        path: String,
    },
    /// A compressed tar archive, unpacked beside what is there, whole or not at all.
    Unarchive {
        /// SHA-256 (hex) of the archive, a blob of the store
        digest: String,
        /// directory that it is unpacked into
        dest: String,
        /// what of it appears right below `dest`; where that is, nothing is done
        creates: String,
    },
    /// Packages of the host's package manager: installed if they are not.
    Package {
        /// their names
        names: Vec<String>,
    },
    /// Requests before this one that have not begun are answered with [`Status::NotRun`]; the one in hand goes on to its
    /// end.
    Cancel,
}

impl Action {
    /// The action's name as it stands in a frame, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Facts => "facts",
            Action::Missing { .. } => "missing",
            Action::PutBlob { .. } => "put_blob",
            Action::Copy { .. } => "copy",
            Action::File { .. } => "file",
            Action::Lineinfile { .. } => "lineinfile",
            Action::Blockinfile { .. } => "blockinfile",
            Action::User { .. } => "user",
            Action::Group { .. } => "group",
            Action::Hostname { .. } => "hostname",
            Action::Timezone { .. } => "timezone",
            Action::Systemd { .. } => "systemd",
            Action::Command { .. } => "command",
            Action::WaitFor { .. } => "wait_for",
            Action::Stat { .. } => "stat",
            Action::Slurp { .. } => "slurp",
            Action::Unarchive { .. } => "unarchive",
            Action::Package { .. } => "package",
            Action::Cancel => "cancel",
        }
    }
}
