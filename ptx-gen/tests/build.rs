//! The builder: what it folds, shares and leaves out, seen in the printed text.

// Helpers of tests are tests; what folds away is written on purpose.
#![allow(
    clippy::unwrap_used,
    clippy::precedence,
    clippy::erasing_op,
    clippy::identity_op
)]

use gannet_ptx_gen::build::Builder;
use gannet_ptx_gen::ir::Kernel;
use gannet_ptx_gen::target::Target;

/// The instructions of a kernel on sm_80 with a block of 64, without indentation.
fn lines(body: impl FnOnce(&Builder)) -> Vec<String> {
    let kernel = Kernel::new("test", Target::Sm80, |k| {
        k.block_size(64);
        body(k);
    });
    let text = kernel.ptx().unwrap_or_else(|e| panic!("{e}"));
    let program = text.split("{\n").nth(1).unwrap();
    program
        .lines()
        .map(|l| l.trim().to_owned())
        .filter(|l| !l.is_empty() && !l.starts_with('.') && l != "}")
        .collect()
}

fn count(lines: &[String], opcode: &str) -> usize {
    lines.iter().filter(|l| l.starts_with(opcode)).count()
}

#[test]
fn identities_and_constants_cost_nothing() {
    let lines = lines(|k| {
        let out = k.output::<u32>("out");
        let i = k.thread_x();
        out.store(0, (i * 1 + 0) / 1 | 0);
        out.store(1, k.constant(6u32) * 7 % 4);
        out.store(2, i * 0 + 5);
    });
    assert_eq!(count(&lines, "add"), 0, "{lines:?}");
    assert!(
        lines
            .iter()
            .any(|l| l.ends_with(", 2;") && l.starts_with("st.global.u32 [%rd1+4]"))
    );
    assert!(
        lines
            .iter()
            .any(|l| l.ends_with(", 5;") && l.starts_with("st.global.u32 [%rd1+8]"))
    );
}

#[test]
fn powers_of_two_are_shifts_and_masks() {
    let lines = lines(|k| {
        let out = k.output::<u32>("out");
        let i = k.block_x();
        out.store(0, i * 8);
        out.store(1, i / 8);
        out.store(2, i % 8);
    });
    assert_eq!(
        (
            count(&lines, "shl"),
            count(&lines, "shr"),
            count(&lines, "and")
        ),
        (1, 1, 1)
    );
    assert_eq!(
        count(&lines, "mul") + count(&lines, "div") + count(&lines, "rem"),
        0
    );
}

#[test]
fn signed_division_is_not_a_shift() {
    let lines = lines(|k| {
        let out = k.output::<i32>("out");
        out.store(0, k.scalar::<i32>("n") / 8);
    });
    assert_eq!(count(&lines, "div.s32"), 1);
}

#[test]
fn constant_indices_become_offsets_of_one_address() {
    let lines = lines(|k| {
        let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
        let (i, j) = (k.thread_x(), k.block_x());
        let sum = k.var(0f32);
        k.unrolled(0..4, |n| sum.update(|s| s + x.load((i + 2 * n) * 4 + j)));
        out.store(i - 1, sum.get());
    });
    assert_eq!(count(&lines, "mad.wide"), 2, "{lines:?}");
    for offset in ["+32]", "+64]", "+96]", "+-4]"] {
        assert!(
            lines.iter().any(|l| l.contains(offset)),
            "{offset} in {lines:?}"
        );
    }
}

#[test]
fn shared_indices_fold_likewise() {
    let lines = lines(|k| {
        let tile = k.shared::<f32>("tile", 256);
        let i = k.thread_x();
        k.unrolled(0..4, |n| tile.store(i + 64 * n, 0f32));
        tile.store(7, 1f32);
    });
    assert!(
        lines
            .iter()
            .any(|l| l.starts_with("st.shared.f32 [tile+28]"))
    );
    assert!(lines.iter().any(|l| l.contains("+768]")));
    assert_eq!(count(&lines, "shl"), 1);
}

#[test]
fn a_value_read_from_a_variable_does_not_follow_it() {
    let lines = lines(|k| {
        let (x, out) = (k.input::<f32>("x"), k.output::<f32>("out"));
        let max = k.var(0f32);
        let old = max.get();
        max.set(max.get().max(x.load(k.thread_x())));
        out.store(k.thread_x(), old - max.get());
    });
    let sub = lines.iter().find(|l| l.starts_with("sub")).unwrap();
    let operands: Vec<&str> = sub.trim_end_matches(';').split(", ").skip(1).collect();
    assert_ne!(operands[0], operands[1], "{lines:?}");
}

#[test]
fn known_conditions_leave_no_branch() {
    let lines = lines(|k| {
        let out = k.output::<u32>("out");
        k.if_else(
            k.constant(3u32).lt(4),
            || out.store(0, 1),
            || out.store(0, 2),
        );
        k.for_each(4, 4, 1, |_| out.store(0, 3));
    });
    assert_eq!(count(&lines, "st.global"), 1);
    assert!(!lines.iter().any(|l| l.contains("bra")));
}

#[test]
fn a_loop_of_one_turn_is_no_loop() {
    let lines = lines(|k| {
        let out = k.output::<u32>("out");
        k.for_each(k.thread_x(), 50, 64, |i| out.store(i, i));
    });
    assert!(!lines.iter().any(|l| l.starts_with("loop")), "{lines:?}");
}

#[test]
fn values_of_an_inner_scope_are_not_reused_outside() {
    // The product is computed in a branch; the use after it must compute it again.
    let lines = lines(|k| {
        let out = k.output::<u32>("out");
        let i = k.thread_x();
        k.if_(i.lt(10), || out.store(0, i * 100));
        out.store(1, i * 100);
    });
    assert_eq!(count(&lines, "mul.lo"), 2);
}

#[test]
fn negated_conditions_need_no_instruction() {
    let lines = lines(|k| {
        let out = k.output::<u32>("out");
        k.if_(!k.thread_x().lt(10), || out.store(0, 1));
    });
    assert_eq!(count(&lines, "not"), 0);
    assert!(lines.iter().any(|l| l.starts_with("@%p0 bra endif_1")));
}

#[test]
fn the_version_is_the_lowest_that_serves() {
    let text = |target, body: fn(&Builder)| Kernel::new("v", target, body).ptx().unwrap();
    assert!(text(Target::Sm75, |_| {}).contains(".version 6.3\n"));
    assert!(text(Target::Sm80, |k| k.cp_async_commit()).contains(".version 7.0\n"));
    let streaming: fn(&Builder) = |k| {
        let (x, y) = (k.input::<u32>("x").streaming(), k.output::<u32>("y"));
        y.store(0, x.load(0));
    };
    assert!(text(Target::Sm75, streaming).contains(".version 7.4\n"));
    assert!(text(Target::Sm120, streaming).contains(".version 8.7\n"));
}

#[test]
fn conversions_exist_on_every_target() {
    use half::{bf16, f16};
    for target in Target::ALL {
        let kernel = Kernel::new("convert", *target, |k| {
            k.block_size(32);
            let out = k.output::<f32>("out");
            let h = k.input::<f16>("h").load(0);
            let b = k.input::<bf16>("b").load(0);
            let byte = k.input::<u8>("byte").load(0);
            let signed = k.input::<i8>("signed").load(0);
            out.store(0, h.cast::<f32>() + b.cast::<f32>());
            out.store(1, byte.cast::<f32>() + signed.cast::<f32>());
            out.store(2, byte.cast::<u32>().as_i32().cast::<f32>());
            let [low, high] = k.pack_f16(out.load(0), out.load(1)).unpack();
            out.store(3, low.cast::<f32>() * high.cast::<f32>());
            out.store(4, out.load(0).cast::<i32>().cast::<f16>().cast::<f32>());
            out.store(5, out.load(0).bitcast::<u32>().byte(1).cast::<f32>());
        });
        kernel.ptx().unwrap_or_else(|e| panic!("{target}: {e}"));
    }
}
