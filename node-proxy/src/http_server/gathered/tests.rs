//! What is gathered, and when it is sent.

use std::pin::pin;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

/// Counts the writes that reach the other end.
struct Counted(DuplexStream, usize);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, bytes));
        self.1 += 1;
        Poll::Ready(written)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Both ends; what is under way between them is at most `room` bytes.
fn ends(room: usize) -> (Gathered<Counted>, DuplexStream) {
    let (near, far) = tokio::io::duplex(room);
    (Gathered::new(Counted(near, 0)), far)
}

#[tokio::test]
async fn what_is_written_in_one_step_is_sent_in_one_piece() {
    let (near, mut far) = ends(1 << 20);
    let mut handle = near.handle();
    let mut connection = pin!(async {
        for _ in 0..10 {
            handle.write_all(&[7; 1024]).await.unwrap();
            handle.flush().await.unwrap();
        }
        tokio::task::yield_now().await;
        handle.write_all(b"end").await.unwrap();
    });
    near.carry(connection.as_mut()).await;
    assert_eq!(near.0.borrow().io.1, 2);
    let mut read = vec![0; 10 * 1024 + 3];
    far.read_exact(&mut read).await.unwrap();
    assert!(read.ends_with(b"\x07end"));
}

#[tokio::test]
async fn everything_arrives_in_order_whatever_its_size_and_however_slowly_it_is_read() {
    let (near, mut far) = ends(100);
    let sizes = [10, ROOM, 1, 3 * ROOM, ROOM - 1, 5, 2];
    let all: Vec<u8> = (0..sizes.iter().sum()).map(|n: usize| (n % 251) as u8).collect();
    let (mut handle, sent) = (near.handle(), all.clone());
    let mut connection = pin!(async move {
        let mut rest = &*sent;
        for size in sizes {
            let (part, left) = rest.split_at(size);
            handle.write_all(part).await.unwrap();
            handle.flush().await.unwrap();
            rest = left;
        }
        handle.shutdown().await.unwrap();
    });
    let mut read = Vec::new();
    let (_, read_all) = tokio::join!(near.carry(connection.as_mut()), far.read_to_end(&mut read));
    read_all.unwrap();
    drop(near);
    assert!(read == all);
}

/// Takes nothing, and does not say so to who reads.
struct Broken;

impl AsyncRead for Broken {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Broken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_error_of_sending_is_met_by_who_reads() {
    let near = Gathered::new(Broken);
    let mut handle = near.handle();
    let mut connection = pin!(async move {
        handle.write_all(b"to nobody").await.unwrap();
        handle.read_u8().await.unwrap_err().kind()
    });
    assert_eq!(near.carry(connection.as_mut()).await, io::ErrorKind::BrokenPipe);
}
