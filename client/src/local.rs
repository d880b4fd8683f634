//! Checksums of local files, made on threads that may wait for a disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use gabion_protocol::limits::PACKET_BYTES;

/// The CRC of `length` bytes of a local file from `offset` on, the CRC that the masters keep of files and chunks;
/// `None` if the file ends before. Calls `progress` with the bytes read since its last call.
///
/// # Errors
/// If the file cannot be read.
pub async fn local_crc(
    file: Arc<File>,
    offset: u64,
    length: u64,
    progress: impl Fn(u64) + Send + 'static,
) -> io::Result<Option<u32>> {
    let reading = tokio::task::spawn_blocking(move || read_crc(&file, offset, length, &progress));
    reading.await.map_err(io::Error::other)?
}

fn read_crc(file: &File, mut offset: u64, mut length: u64, progress: &dyn Fn(u64)) -> io::Result<Option<u32>> {
    let mut hasher = crc32fast::Hasher::new();
    let most = usize::try_from(length).map_or(PACKET_BYTES, |length| length.min(PACKET_BYTES));
    let mut buffer = vec![0; most];
    while length > 0 {
        let want = usize::try_from(length).map_or(most, |left| left.min(most));
        match file.read_at(&mut buffer[..want], offset) {
            Ok(0) => return Ok(None),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                offset += read as u64;
                length -= read as u64;
                progress(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use gabion_protocol::checksum::crc;

    #[tokio::test]
    async fn a_range_has_its_crc_and_a_short_file_has_none() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..PACKET_BYTES + 77).map(|i| (i % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        let file = Arc::new(file);
        let length = bytes.len() as u64;
        for (from, len) in [(0, length), (5, length - 5), (7, 9), (3, 0)] {
            let expected = crc(&bytes[from as usize..(from + len) as usize]);
            let found = local_crc(Arc::clone(&file), from, len, |_| {}).await.unwrap();
            assert_eq!(found, Some(expected));
        }
        assert_eq!(local_crc(file, 1, length, |_| {}).await.unwrap(), None);
    }
}
