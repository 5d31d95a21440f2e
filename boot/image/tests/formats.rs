//! Files and compressions: what is accepted, and what is said of everything else.

mod common;

use boot_image::{DecompressError, Format, FormatError, KernelFile, MAX_KERNEL_LEN, decompress};
use common::{bzimage, content, with_length};
use proptest::prelude::*;

const FILES: [(&str, Format, &[u8]); 7] = [
    ("gz", Format::Gzip, include_bytes!("data/content.gz")),
    ("x86.xz", Format::Xz, include_bytes!("data/content.x86.xz")),
    ("blocks.xz", Format::Xz, include_bytes!("data/content.blocks.xz")),
    ("zst", Format::Zstd, include_bytes!("data/content.zst")),
    ("single.zst", Format::Zstd, include_bytes!("data/content.single.zst")),
    ("lz4", Format::Lz4, include_bytes!("data/content.lz4")),
    ("lzma", Format::Lzma, include_bytes!("data/content.lzma")),
];

/// A file as the Linux build makes the payload of it.
fn payload(format: Format, data: &[u8]) -> Vec<u8> {
    if format == Format::Gzip { data.to_vec() } else { with_length(data, content().len()) }
}

#[test]
fn every_compression_in_a_bzimage() {
    for (name, format, data) in FILES {
        let image = bzimage(&payload(format, data));
        let file = KernelFile::parse(&image).unwrap();
        assert_eq!((file.format(), file.uncompressed_len()), (format, 70_000), "{name}");
        assert_eq!(file.elf_in_place(), None);
        let mut out = vec![0xee; file.uncompressed_len()];
        assert_eq!(file.extract_into(&mut out), Ok(()), "{name}");
        assert!(out == content(), "{name}");
    }
}

#[test]
fn plain_and_gzip_elf_files() {
    let elf = common::ElfBuilder::linux().build();
    let file = KernelFile::parse(&elf).unwrap();
    assert_eq!((file.format(), file.elf_in_place()), (Format::Raw, Some(&elf[..])));
    let mut out = vec![0; file.uncompressed_len()];
    file.extract_into(&mut out).unwrap();
    assert_eq!(out, elf);

    let file = KernelFile::parse(FILES[0].2).unwrap();
    assert_eq!((file.format(), file.uncompressed_len()), (Format::Gzip, 70_000));
}

#[test]
fn uncompressed_kernel_in_a_bzimage() {
    let elf = common::ElfBuilder::linux().build();
    let image = bzimage(&elf);
    assert_eq!(KernelFile::parse(&image).unwrap().elf_in_place(), Some(&elf[..]));
}

#[test]
fn a_buffer_of_another_length_is_refused() {
    for (name, format, data) in FILES {
        for len in [0, 1, 69_999, 70_001, 100_000] {
            let result = decompress(format, data, &mut vec![0; len]);
            assert!(result.is_err(), "{name} into {len}");
        }
        let found = decompress(format, data, &mut vec![0; 70_001]);
        assert_eq!(found, Err(DecompressError::WrongLength { declared: 70_001, found: 70_000 }), "{name}");
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    for (name, format, data) in FILES {
        for len in (0..data.len()).step_by(97).chain(data.len() - 20..data.len()) {
            let result = decompress(format, &data[..len], &mut vec![0; 70_000]);
            assert!(result.is_err(), "{name} cut to {len}");
        }
    }
}

#[test]
fn a_flipped_bit_is_noticed_where_there_is_a_checksum() {
    for (name, format, data) in FILES {
        let checked = !matches!(name, "single.zst" | "lz4" | "lzma");
        for at in (4..data.len()).step_by(211) {
            let mut bad = data.to_vec();
            bad[at] ^= 4;
            let mut out = vec![0; 70_000];
            let result = decompress(format, &bad, &mut out);
            assert!(!checked || result.is_err() || out == content(), "{name} at {at}");
        }
    }
}

#[test]
fn headers_that_are_refused() {
    let good = bzimage(&payload(Format::Zstd, FILES[3].2));
    let with = |change: fn(&mut Vec<u8>)| {
        let mut image = good.clone();
        change(&mut image);
        KernelFile::parse(&image).map(|_| ()).unwrap_err()
    };
    assert_eq!(KernelFile::parse(&[]).unwrap_err(), FormatError::TooShort);
    assert_eq!(KernelFile::parse(b"070701 an initramfs").unwrap_err(), FormatError::NotAKernel);
    assert_eq!(with(|i| i[0x206] = 7), FormatError::OldProtocol { version: 0x0207 });
    assert_eq!(with(|i| i.truncate(0x24e)), FormatError::TooShort);
    assert!(matches!(
        with(|i| i.truncate(9000)),
        FormatError::PayloadOutside { offset: 1600, len: 15904, file: 9000 }
    ));
    assert!(matches!(with(|i| i[0x24b] = 0xff), FormatError::PayloadOutside { .. }));
    let end = 1600 + 15900;
    assert_eq!(KernelFile::parse(&good).unwrap().uncompressed_len(), 70_000);
    let mut huge = good.clone();
    huge[end..end + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let len = u32::MAX as usize;
    assert!(len > MAX_KERNEL_LEN);
    assert_eq!(KernelFile::parse(&huge).unwrap_err(), FormatError::BadLength { len });
}

#[test]
fn unsupported_compressions_are_named() {
    for (magic, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\x89LZO\0\r\n", "lzo"), (b"garbage", "unknown")] {
        let image = bzimage(&with_length(magic, 1000));
        let error = KernelFile::parse(&image).unwrap_err();
        assert_eq!(error, FormatError::Compression(DecompressError::Unsupported(name)));
        assert!(error.to_string().contains(name), "{error}");
    }
    let mut sha = FILES[1].2.to_vec();
    sha[7] = 10;
    let crc = crc32(&sha[6..8]);
    sha[8..12].copy_from_slice(&crc.to_le_bytes());
    let error = decompress(Format::Xz, &sha, &mut vec![0; 70_000]).unwrap_err();
    assert_eq!(error, DecompressError::Unsupported("xz with SHA-256 check"));
}

#[test]
fn concatenated_lz4_frames() {
    let mut twice = FILES[5].2.to_vec();
    twice.extend_from_slice(FILES[5].2);
    let mut out = vec![0; 140_000];
    decompress(Format::Lz4, &twice, &mut out).unwrap();
    assert!(out[..70_000] == content() && out[70_000..] == content());
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _: u32| (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn hostile_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..2000), which in 0usize..7) {
        let _ = KernelFile::parse(&bytes);
        let (_, format, data) = FILES[which];
        let keep = bytes.len().min(18);
        bytes[..keep].copy_from_slice(&data[..keep]); // past the magic number
        let _ = decompress(format, &bytes, &mut [0; 3000]);
        let image = bzimage(&with_length(&bytes, 3000));
        if let Ok(file) = KernelFile::parse(&image) {
            let mut out = vec![0; file.uncompressed_len().min(1 << 20)];
            let _ = file.extract_into(&mut out);
        }
    }

    #[test]
    fn damaged_files_never_panic(
        which in 0usize..7,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (_, format, data) = FILES[which];
        let mut bad = data.to_vec();
        for (at, value) in edits {
            let at = at.index(bad.len());
            bad[at] = value;
        }
        if let Some(cut) = cut {
            bad.truncate(cut.index(bad.len()));
        }
        let _ = decompress(format, &bad, &mut vec![0; 70_000]);
    }
}
