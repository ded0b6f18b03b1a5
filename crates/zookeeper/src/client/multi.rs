//! Several operations in one request: writes that all take effect or none, and reads of one state of the tree.

use super::{Client, Result, create_path, write_create};
use crate::{
    create::CreateOptions,
    error::Error,
    jute::{JuteError, Reader, Writer},
    protocol::{Stat, op},
};

/// What one operation of a [`MultiWriter`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MultiWriteResult {
    Check,
    Delete,
    /// Path below the client's root.
    Create {
        path: String,
        stat: Stat,
    },
    SetData {
        stat: Stat,
    },
}

/// Why a [`MultiWriter`]'s request failed. Nothing of it took effect if an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MultiWriteError {
    /// The request as a whole.
    #[error("{source}")]
    RequestFailed {
        /// why
        #[from]
        source: Error,
    },
    /// One operation, because of which the others were not executed.
    #[error("operation {index} failed: {source}")]
    OperationFailed {
        /// which, from 0, in the order in which they were added
        index: usize,
        /// why
        source: Error,
    },
}

impl From<MultiWriteError> for Error {
    fn from(error: MultiWriteError) -> Self {
        match error {
            MultiWriteError::RequestFailed { source } | MultiWriteError::OperationFailed { source, .. } => source,
        }
    }
}

/// Operations of a body: each behind its header, and a last header.
#[derive(Debug, Default)]
struct Body {
    w: Writer,
    count: usize,
}

impl Body {
    fn add(&mut self, op: i32, body: impl FnOnce(&mut Writer) -> &mut Writer) {
        self.w.int(op).bool(false).int(-1);
        body(&mut self.w);
        self.count += 1;
    }

    fn take(&mut self) -> (Vec<u8>, usize) {
        self.w.int(op::ERROR).bool(true).int(-1);
        let this = std::mem::take(self);
        (this.w.0, this.count)
    }
}

/// Collects writes for one request.
#[derive(Debug)]
pub struct MultiWriter<'a> {
    client: &'a Client,
    body: Body,
}

/// What a [`MultiReader`]'s operation read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MultiReadResult {
    Data { data: Vec<u8>, stat: Stat },
    Children { children: Vec<String> },
    Error { err: Error },
}

/// Collects reads for one request (multiRead, since ZooKeeper 3.6).
#[derive(Debug)]
pub struct MultiReader<'a> {
    client: &'a Client,
    body: Body,
}

impl Client {
    /// Begins a request of several writes.
    pub fn new_multi_writer(&self) -> MultiWriter<'_> {
        MultiWriter { client: self, body: Body::default() }
    }

    /// Begins a request of several reads.
    pub fn new_multi_reader(&self) -> MultiReader<'_> {
        MultiReader { client: self, body: Body::default() }
    }
}

impl MultiWriter<'_> {
    /// Requires that a node exists with this version.
    pub fn add_check_version(&mut self, path: &str, version: i32) -> Result<()> {
        let path = self.client.root.absolute(path)?;
        self.body.add(op::CHECK, |w| w.string(&path).int(version));
        Ok(())
    }

    /// As [`Client::create`].
    pub fn add_create(&mut self, path: &str, data: &[u8], options: &CreateOptions<'_>) -> Result<()> {
        let (op, _, _) = options.encode()?;
        let path = create_path(&self.client.root, path, options)?;
        self.body.add(op, |w| write_create(w, &path, data, options));
        Ok(())
    }

    /// As [`Client::set_data`].
    pub fn add_set_data(&mut self, path: &str, data: &[u8], expected_version: Option<i32>) -> Result<()> {
        let path = self.client.root.absolute(path)?;
        self.body.add(op::SET_DATA, |w| w.string(&path).buffer(data).int(expected_version.unwrap_or(-1)));
        Ok(())
    }

    /// As [`Client::delete`].
    pub fn add_delete(&mut self, path: &str, expected_version: Option<i32>) -> Result<()> {
        let path = self.client.root.absolute(path)?;
        self.body.add(op::DELETE, |w| w.string(&path).int(expected_version.unwrap_or(-1)));
        Ok(())
    }

    /// Number of operations that were added.
    pub fn len(&self) -> usize {
        self.body.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.body.count == 0
    }

    /// Forgets the operations that were added.
    pub fn abort(&mut self) {
        self.body = Body::default();
    }

    /// Sends the operations that were added, and returns what each did. Without any nothing is sent.
    pub async fn commit(&mut self) -> std::result::Result<Vec<MultiWriteResult>, MultiWriteError> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let (body, count) = self.body.take();
        let answer = self.client.call(op::MULTI, |w| w.raw(&body)).await?;
        let results = read_writes(&mut Reader(&answer), count).map_err(Error::from)?;
        let failed =
            |r: &std::result::Result<_, i32>| r.as_ref().err().copied().filter(|e| *e != 0 && *e != Error::RuntimeInconsistency.code());
        if let Some((index, code)) = results.iter().enumerate().find_map(|(i, r)| Some((i, failed(r)?))) {
            return Err(MultiWriteError::OperationFailed { index, source: Error::from_code(code) });
        }
        let mut done = Vec::with_capacity(results.len());
        for result in results {
            done.push(match result {
                Ok(MultiWriteResult::Create { path, stat }) => MultiWriteResult::Create { path: self.client.root.relative(path), stat },
                Ok(other) => other,
                Err(code) => return Err(Error::from_code(if code == 0 { -2 } else { code }).into()),
            });
        }
        if done.len() != count {
            return Err(Error::from(JuteError::Short).into());
        }
        Ok(done)
    }
}

/// Results in order; an error is its code, 0 for an operation before the one that failed.
fn read_writes(r: &mut Reader<'_>, max: usize) -> std::result::Result<Vec<std::result::Result<MultiWriteResult, i32>>, JuteError> {
    let mut all = Vec::new();
    loop {
        let (code, done, _err) = (r.int()?, r.bool()?, r.int()?);
        if done {
            return Ok(all);
        }
        if all.len() >= max {
            return Err(JuteError::Length(code));
        }
        all.push(Ok(match code {
            op::ERROR => {
                all.push(Err(r.int()?));
                continue;
            }
            // The older create, which ZooKeeper answers with where a request had it, has no stat; it is not sent.
            op::CREATE2 | op::CREATE_CONTAINER | op::CREATE_TTL => MultiWriteResult::Create { path: r.string()?, stat: Stat::read(r)? },
            op::SET_DATA => MultiWriteResult::SetData { stat: Stat::read(r)? },
            op::DELETE => MultiWriteResult::Delete,
            op::CHECK => MultiWriteResult::Check,
            other => return Err(JuteError::Length(other)),
        }));
    }
}

impl MultiReader<'_> {
    /// As [`Client::get_data`].
    pub fn add_get_data(&mut self, path: &str) -> Result<()> {
        let path = self.client.root.absolute(path)?;
        self.body.add(op::GET_DATA, |w| w.string(&path).bool(false));
        Ok(())
    }

    /// As [`Client::list_children`].
    pub fn add_get_children(&mut self, path: &str) -> Result<()> {
        let path = self.client.root.absolute(path)?;
        self.body.add(op::GET_CHILDREN, |w| w.string(&path).bool(false));
        Ok(())
    }

    /// Sends the operations that were added; each has its own result. Without any nothing is sent.
    pub async fn commit(&mut self) -> Result<Vec<MultiReadResult>> {
        if self.body.count == 0 {
            return Ok(Vec::new());
        }
        let (body, count) = self.body.take();
        let answer = self.client.call(op::MULTI_READ, |w| w.raw(&body)).await?;
        let results = read_reads(&mut Reader(&answer), count)?;
        if results.len() == count { Ok(results) } else { Err(JuteError::Short.into()) }
    }
}

fn read_reads(r: &mut Reader<'_>, max: usize) -> std::result::Result<Vec<MultiReadResult>, JuteError> {
    let mut all = Vec::new();
    loop {
        let (code, done, _err) = (r.int()?, r.bool()?, r.int()?);
        if done {
            return Ok(all);
        }
        if all.len() >= max {
            return Err(JuteError::Length(code));
        }
        all.push(match code {
            op::ERROR => MultiReadResult::Error { err: Error::from_code(r.int()?) },
            op::GET_DATA => MultiReadResult::Data { data: r.buffer()?.to_vec(), stat: Stat::read(r)? },
            op::GET_CHILDREN => MultiReadResult::Children { children: r.vector(4, Reader::string)? },
            other => return Err(JuteError::Length(other)),
        });
    }
}
