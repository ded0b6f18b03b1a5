//! A proxy in front of a server, which can be made to hold back what it gets, and to cut all connections.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

#[derive(Default)]
struct State {
    held: AtomicBool,
    ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

pub struct Proxy {
    pub address: String,
    state: Arc<State>,
}

fn pump(state: &State, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        while state.held.load(Ordering::SeqCst) && !state.ended.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

impl Proxy {
    pub fn new(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (state, target) = (Arc::new(State::default()), target.to_owned());
        let this = Self { address, state: state.clone() };
        thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                if state.ended.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(to) = TcpStream::connect(&target) else { continue };
                let copies = [from.try_clone().unwrap(), to.try_clone().unwrap()];
                state.streams.lock().unwrap().extend([from.try_clone().unwrap(), to.try_clone().unwrap()]);
                let [from_2, to_2] = copies;
                let (a, b) = (state.clone(), state.clone());
                thread::spawn(move || pump(&a, from, to));
                thread::spawn(move || pump(&b, to_2, from_2));
            }
        });
        this
    }

    /// Holds back everything, or lets it go.
    pub fn hold(&self, held: bool) {
        self.state.held.store(held, Ordering::SeqCst);
    }

    /// Cuts all connections; new ones are taken.
    pub fn cut(&self) {
        for s in self.state.streams.lock().unwrap().drain(..) {
            let _ = s.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(&self.address);
    }
}
