//! Sealed chunks: a zstd frame each, behind a skippable frame that is its entry in the index.
//!
//! So the file is its own index, one append adds a chunk whole or not at all, `zstd -dc` reads
//! it like any other, and to find a line only the headers are read, a few hundred at the most.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use super::line::State;

/// How much text is sealed at once: enough for zstd to find what repeats, little enough that
/// one line costs a fraction of a millisecond.
pub(super) const CHUNK: usize = 128 * 1024;

/// What a header may claim; longer text is never sealed. It bounds what a damaged file can make
/// a reader allocate.
const LARGEST: u32 = 4 * 1024 * 1024;

/// Fast enough that it never holds a step up; higher levels gain little on chunks of this size.
const LEVEL: i32 = 3;

/// Of a skippable frame, by the zstd format.
const MAGIC: u32 = 0x184d_2a50;
const HEADER: usize = 8 + FIELDS;
const FIELDS: usize = 20;

/// Where some lines are in the file of sealed chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Lines of the log before this chunk.
    pub(super) before: u64,
    pub(super) lines: u32,
    /// Bytes of text.
    pub(super) bytes: u32,
    /// Of the header.
    at: u64,
    compressed: u32,
}

impl Chunk {
    /// The number of its last line.
    pub(super) fn last(&self) -> u64 {
        self.before + u64::from(self.lines)
    }

    /// Behind it in the file.
    pub(super) fn end(&self) -> u64 {
        self.at + HEADER as u64 + u64::from(self.compressed)
    }

    /// Its bytes in the file, from `at` on, and what they are.
    pub(super) fn seal(text: &[u8], before: u64, lines: u32, at: u64) -> io::Result<(Vec<u8>, Self)> {
        let mut sealed = vec![0; HEADER + zstd::zstd_safe::compress_bound(text.len())];
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
        let compressed = compressor.compress_to_buffer(text, &mut sealed[HEADER..])?;
        sealed.truncate(HEADER + compressed);
        let size = |size: usize| u32::try_from(size).map_err(io::Error::other);
        let chunk = Self { before, lines, bytes: size(text.len())?, at, compressed: size(compressed)? };
        sealed[..HEADER].copy_from_slice(&chunk.header());
        Ok((sealed, chunk))
    }

    /// The whole chunks of a file, one after another. What follows the last is no chunk.
    pub(super) fn index(file: &mut File) -> io::Result<Vec<Self>> {
        let size = file.metadata()?.len();
        let mut chunks: Vec<Self> = Vec::new();
        loop {
            let (at, before) = chunks.last().map_or((0, 0), |last| (last.end(), last.last()));
            let mut header = [0; HEADER];
            file.seek(SeekFrom::Start(at))?;
            match file.read_exact(&mut header) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(chunks),
                Err(error) => return Err(error),
            }
            match Self::of_header(&header, at) {
                Some(chunk) if chunk.before == before && chunk.end() <= size => chunks.push(chunk),
                _ => return Ok(chunks),
            }
        }
    }

    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(self.at + HEADER as u64))?;
        let mut compressed = vec![0; self.compressed as usize];
        file.read_exact(&mut compressed)?;
        let text = zstd::bulk::decompress(&compressed, self.bytes as usize)?;
        if text.len() != self.bytes as usize {
            let damaged = format!("the chunk behind line {} of {} is damaged", self.before, path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
        }
        Ok(text)
    }

    /// Where the log is behind it.
    pub(super) fn state(&self, path: &Path) -> io::Result<State> {
        Ok(State { lines: self.last(), ..State::behind(&self.read(path)?) })
    }

    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..8].copy_from_slice(&(FIELDS as u32).to_le_bytes());
        header[8..16].copy_from_slice(&self.before.to_le_bytes());
        header[16..20].copy_from_slice(&self.lines.to_le_bytes());
        header[20..24].copy_from_slice(&self.bytes.to_le_bytes());
        header[24..28].copy_from_slice(&self.compressed.to_le_bytes());
        header
    }

    fn of_header(header: &[u8; HEADER], at: u64) -> Option<Self> {
        let number = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let before = u64::from_le_bytes(header[8..16].try_into().ok()?);
        let (lines, bytes, compressed) = (number(16)?, number(20)?, number(24)?);
        let ours = number(0)? == MAGIC && number(4)? as usize == FIELDS;
        let sane = lines > 0
            && bytes <= LARGEST
            && compressed as usize <= zstd::zstd_safe::compress_bound(LARGEST as usize);
        (ours && sane).then_some(Self { before, lines, bytes, at, compressed })
    }
}
