//! A server that is a script: what it gets and sends is bytes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::soon;

pub struct Fake {
    listener: TcpListener,
    pub address: String,
}

pub struct Connection {
    pub stream: TcpStream,
    /// the connect request that it began with
    pub hello: Vec<u8>,
}

pub const PASSWORD: [u8; 16] = [7; 16];

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { listener, address }
    }

    /// The next connection, its connect request read.
    pub async fn accept(&self) -> Connection {
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        let mut this = Connection { stream, hello: Vec::new() };
        this.hello = this.frame().await;
        this
    }

    /// The next connection, with a session.
    pub async fn serve(&self, session: i64, timeout_ms: i32) -> Connection {
        let mut this = self.accept().await;
        this.welcome(session, timeout_ms).await;
        this
    }
}

impl Connection {
    /// Grants a session; 0 for one that has expired.
    pub async fn welcome(&mut self, session: i64, timeout_ms: i32) {
        let parts: [&[u8]; 5] =
            [&[0; 4], &timeout_ms.to_be_bytes(), &session.to_be_bytes(), &[0, 0, 0, 16], &[&PASSWORD[..], &[0]].concat()];
        self.send(&parts.concat()).await;
    }

    /// Sends a record behind its length.
    pub async fn send(&mut self, record: &[u8]) {
        self.stream.write_all(&[&(record.len() as i32).to_be_bytes()[..], record].concat()).await.unwrap();
    }

    /// Sends an answer.
    pub async fn reply(&mut self, xid: i32, zxid: i64, err: i32, body: &[u8]) {
        self.send(&[&xid.to_be_bytes()[..], &zxid.to_be_bytes(), &err.to_be_bytes(), body].concat()).await;
    }

    /// The next frame that is not a ping, without its length; pings are answered.
    pub async fn frame(&mut self) -> Vec<u8> {
        loop {
            let frame = self.any_frame().await.expect("a frame");
            if frame.len() != 8 || frame[..4] != (-2i32).to_be_bytes() {
                return frame;
            }
            self.reply(-2, 0, 0, &[]).await;
        }
    }

    /// The next frame, `None` at the end of the stream.
    pub async fn any_frame(&mut self) -> Option<Vec<u8>> {
        let read = async {
            let length = self.stream.read_u32().await.ok()?;
            let mut frame = vec![0; length as usize];
            self.stream.read_exact(&mut frame).await.ok()?;
            Some(frame)
        };
        soon("a frame", read).await
    }

    /// Whether the client ends the connection.
    pub async fn is_ended(&mut self) -> bool {
        while let Some(_frame) = self.any_frame().await {}
        true
    }
}

/// Xid and operation of a request.
pub fn head(frame: &[u8]) -> (i32, i32) {
    let int = |at: usize| i32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    (int(0), int(4))
}

/// `ustring`
pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as i32).to_be_bytes()[..], text.as_bytes()].concat()
}
