//! Writes a message that is in several pieces (its head, its body).

use std::io::{IoSlice, Result};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, ReadBuf};

/// Up to so many bytes are put together first: copying them costs less than what the kernel does for a list of pieces.
const SMALL: usize = 4096;

/// As [`AsyncWrite::poll_write_vectored`].
pub(crate) fn poll_write_pieces<W: AsyncWrite + Unpin>(
    io: &mut W,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<Result<usize>> {
    let io = Pin::new(io);
    if let [only] = pieces {
        return io.poll_write(cx, only);
    }
    if pieces.iter().map(|piece| piece.len()).sum::<usize>() > SMALL {
        return io.poll_write_vectored(cx, pieces);
    }
    let mut space = [MaybeUninit::uninit(); SMALL];
    let mut whole = ReadBuf::uninit(&mut space);
    pieces.iter().for_each(|piece| whole.put_slice(piece));
    io.poll_write(cx, whole.filled())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Counts its writes, and of how many pieces they were.
    #[derive(Default)]
    struct Counted {
        written: Cursor<Vec<u8>>,
        whole: usize,
        in_pieces: usize,
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
            self.whole += 1;
            Pin::new(&mut self.written).poll_write(cx, bytes)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<Result<usize>> {
            self.in_pieces += 1;
            Pin::new(&mut self.written).poll_write_vectored(cx, pieces)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn small_messages_are_written_whole_and_all_are_written_in_order() {
        let rows: [(&[usize], usize, usize); 5] = [
            (&[], 1, 0),
            (&[100_000], 1, 0),
            (&[200, 1024], 1, 0),
            (&[96, 2000, 2000], 1, 0),
            (&[97, 2000, 2000], 0, 1),
        ];
        for (lengths, whole, in_pieces) in rows {
            let pieces: Vec<Vec<u8>> =
                (b'a'..).zip(lengths).map(|(byte, length)| vec![byte; *length]).collect();
            let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut to = Counted::default();
            let written = std::future::poll_fn(|cx| poll_write_pieces(&mut to, cx, &slices)).await.unwrap();
            assert_eq!(to.written.into_inner(), pieces.concat());
            assert_eq!(
                (written, to.whole, to.in_pieces),
                (lengths.iter().sum(), whole, in_pieces),
                "{lengths:?}"
            );
        }
    }
}
