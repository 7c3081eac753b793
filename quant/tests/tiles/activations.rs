//! Activations in swizzled atoms.

use gannet_quant::Error;
use gannet_quant::random::Words;
use gannet_quant::scalar::LeF16;
use gannet_quant::tile::ActivationTiles;

fn numbers(count: usize, seed: u64) -> Vec<LeF16> {
    let mut words = Words::for_block(seed, 1);
    (0..count)
        .map(|_| LeF16::from_bits(words.word() as u16))
        .collect()
}

#[test]
fn numbers_come_back_and_padding_is_zero() {
    let shapes = [
        (1, 64, 8),
        (16, 256, 16),
        (13, 896, 8),
        (200, 100, 64),
        (7, 1, 0),
        (9, 1536, 128),
    ];
    for (tokens, cols, tile) in shapes {
        let layout = ActivationTiles::new(tokens, cols, tile).unwrap();
        let x = numbers(tokens * cols, 2);
        let mut atoms = vec![0xa5; layout.bytes()];
        layout.place(&x, &mut atoms).unwrap();
        assert_eq!(layout.read(&atoms).unwrap(), x, "[{tokens}, {cols}]");
        // Each number at its offset, and nothing else.
        for token in 0..tokens {
            for col in 0..cols {
                let at = layout.offset(token, col);
                let found = u16::from_le_bytes([atoms[at], atoms[at + 1]]);
                assert_eq!(found, x[token * cols + col].bits());
                atoms[at..][..2].fill(0);
            }
        }
        assert!(
            atoms.iter().all(|&byte| byte == 0),
            "[{tokens}, {cols}]: padding"
        );
    }
}

#[test]
fn offsets_are_those_of_swizzled_atoms() {
    let layout = ActivationTiles::new(20, 300, 16).unwrap();
    assert_eq!(layout.padded_tokens(), 32);
    assert_eq!(layout.group_bytes(), 32 * 128);
    assert_eq!(layout.bytes(), 8 * 32 * 128);
    for token in 0..20 {
        for col in 0..300 {
            let (group, c) = (col / 64, col % 64);
            let position = if c < 32 { 2 * c } else { 2 * (c - 32) + 1 };
            let (chunk, within) = (position / 8, position % 8);
            let atom = group * 4 + token / 8;
            let expected =
                atom * 1024 + token % 8 * 128 + ((chunk ^ (token & 7)) * 16) + 2 * within;
            assert_eq!(layout.offset(token, col), expected);
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let layout = ActivationTiles::new(3, 64, 8).unwrap();
    let mut atoms = vec![0; layout.bytes()];
    let short = layout.place(&numbers(3 * 64 - 1, 1), &mut atoms);
    assert!(matches!(short, Err(Error::Size { .. })));
    assert!(matches!(layout.read(&atoms[1..]), Err(Error::Size { .. })));
    assert!(matches!(
        ActivationTiles::new(usize::MAX - 3, 64, 8),
        Err(Error::TooLarge { .. })
    ));
    let none = ActivationTiles::new(0, 64, 8).unwrap();
    none.place(&[], &mut []).unwrap();
    assert!(none.read(&[]).unwrap().is_empty());
}
