//! The kernels that are mutated, with small launches: every family, format and generation of GPU.

use gannet_ptx_gen::kernels::{
    Activation, AdvanceSpec, ArgmaxSpec, EmbedSpec, Epilogue, GatherRowsSpec, GemmBatchSpec,
    GemmSpec, GemvGluSpec, GemvSpec, KvType, KvWriteSpec, LayerNormSpec, Map, NormAddNormSpec,
    RmsNormSpec, RopeKind, RopeSpec, SampleSpec, WeightFormat,
};
use gannet_ptx_gen::target::Target;

use crate::common::attention::{Attention, Case, decode, merge, packed_decode, prompts, spec};
use crate::common::products::{
    Part, embed, gemm, gemm_batch, gemm_batch_of_outliers, gemm_of_outliers, gemv, gemv_glu,
};
use crate::common::sample;
use crate::common::sample_hair;
use crate::common::trial::Trial;
use crate::common::{simple, steps};

const TARGET: Target = Target::Sm80;

pub(crate) fn all() -> Vec<Trial> {
    let mut trials = rows();
    trials.extend(products());
    trials.extend(matrix_products());
    trials.extend(batch_products());
    trials.extend(attention());
    trials.extend(sampling());
    trials
}

/// Kernels that move or map rows.
fn rows() -> Vec<Trial> {
    let target = TARGET;
    let lengths = [1, 2, 3, 4, 5, 1023, 2049];
    let mut trials = vec![simple::add(target, &lengths), simple::stream_read(target)];
    let activations = [Activation::Silu, Activation::Gelu];
    trials.extend(activations.map(|activation| simple::glu(target, activation, &lengths)));
    let maps = [
        Map::Scale(50.596_443),
        Map::Softcap(30.0),
        Map::Activate(Activation::Gelu),
    ];
    trials.extend(maps.map(|map| simple::map(target, map, &lengths)));
    let norms = [(99, 3, false), (4100, 2, false), (300, 2, true)];
    trials.extend(norms.map(|(dim, rows, residual)| {
        let spec = RmsNormSpec {
            dim,
            eps: 1e-5,
            residual,
            target,
        };
        simple::rms_norm(spec, rows)
    }));
    let norms = [(99, 3, false), (4100, 2, true), (5001, 2, true)];
    trials.extend(norms.map(|(dim, rows, bias)| {
        let spec = LayerNormSpec {
            dim,
            eps: 1e-5,
            bias,
            target,
        };
        simple::layer_norm(spec, rows)
    }));
    trials.extend([(300, 2), (4100, 2)].map(|(dim, rows)| {
        let eps = 1e-5;
        simple::norm_add_norm(NormAddNormSpec { dim, eps, target }, rows)
    }));
    let ropes = [
        (5, 20, 20, RopeKind::Interleaved),
        (9, 128, 66, RopeKind::Neox),
    ];
    trials.extend(ropes.map(|(num_heads, head_dim, rot_dim, kind)| {
        simple::rope(RopeSpec {
            target,
            num_heads,
            head_dim,
            rot_dim,
            kind,
        })
    }));
    let caches = [
        (Target::Sm75, 9, 132, KvType::F16, None),
        (target, 5, 20, KvType::F16, None),
        (target, 5, 20, KvType::F32, None),
        (target, 5, 20, KvType::BF16, None),
        (target, 9, 132, KvType::Int8, None),
        (target, 5, 24, KvType::F32, Some(RopeKind::Interleaved)),
        (target, 9, 136, KvType::F32, Some(RopeKind::Neox)),
    ];
    trials.extend(
        caches.map(|(target, num_kv_heads, head_dim, kv_type, rope)| {
            simple::kv_write(KvWriteSpec {
                target,
                num_kv_heads,
                head_dim,
                block_tokens: 24,
                max_blocks: 3,
                kv_type,
                rope,
            })
        }),
    );
    trials.extend(
        [331, 2051, 36_000].map(|vocab_size| simple::argmax(ArgmaxSpec { target, vocab_size })),
    );
    trials.push(simple::gather_rows(GatherRowsSpec { target, dim: 300 }));
    trials.extend(
        [
            (23, 4, true, false),
            (70, 3, false, false),
            (35, 3, false, true),
        ]
        .map(|(num_slots, ring_len, positions, gathers)| {
            steps::advance(AdvanceSpec {
                target,
                num_slots,
                ring_len,
                context: 10,
                positions,
                gathers,
            })
        }),
    );
    trials.push(steps::feed(target, &lengths));
    trials
}

/// Embeddings and matrix-vector products.
fn products() -> Vec<Trial> {
    let target = TARGET;
    let embedding = |format: WeightFormat| {
        embed(EmbedSpec {
            target,
            format,
            vocab_size: 9,
            hidden_size: 5 * if format.block_len() == 1 {
                100
            } else {
                format.block_len()
            },
            // One more product in one of them.
            scale: (format == WeightFormat::BF16).then_some(22.6),
        })
    };
    let product = |(format, rows, cols, tokens_per_block, more)| {
        let spec = GemvSpec {
            target,
            format,
            rows,
            cols,
            tokens_per_block,
            epilogue: Epilogue {
                bias: more,
                residual: more,
            },
            hands_over: false,
            variant: None,
        };
        // Two whole tiles of tokens and a ragged one.
        gemv(spec, &[1, 2 * tokens_per_block + 1], Part::All)
    };
    let mut trials: Vec<Trial> = WeightFormat::ALL.map(embedding).into_iter().collect();
    trials.extend(
        [
            // Several blocks of rows each, most of them ragged.
            (WeightFormat::F32, 63, 300, 1, false),
            (WeightFormat::F16, 63, 300, 2, true),
            (WeightFormat::BF16, 63, 300, 1, true),
            // Two rows a slot.
            (WeightFormat::Q4_0, 64, 5120, 1, false),
            (WeightFormat::Q8_0, 15, 5632, 2, false),
            (WeightFormat::Q4K, 63, 768, 1, true),
            (WeightFormat::Q4K, 31, 5632, 8, false),
            (WeightFormat::Q5K, 63, 768, 2, false),
            (WeightFormat::Q6K, 63, 1536, 1, false),
        ]
        .map(product),
    );
    let pairs = [
        (WeightFormat::Q4K, WeightFormat::Q6K, 1, Activation::Silu),
        (WeightFormat::Q8_0, WeightFormat::Q8_0, 2, Activation::Gelu),
    ];
    trials.extend(pairs.map(|(gate, up, tokens_per_block, activation)| {
        let spec = GemvGluSpec {
            target,
            gate,
            up,
            rows: 31,
            cols: 512,
            tokens_per_block,
            activation,
            variant: None,
        };
        gemv_glu(spec, &[1, 2 * tokens_per_block + 1], Part::All)
    }));
    trials
}

/// Products on tensor cores.
fn matrix_products() -> Vec<Trial> {
    // Two blocks of rows and of tokens or more, and three steps of columns or more.
    let shapes = [
        (TARGET, WeightFormat::F32, 127, 96, true),
        (Target::Sm75, WeightFormat::F32, 128, 96, false),
        (TARGET, WeightFormat::F16, 126, 96, true),
        (TARGET, WeightFormat::BF16, 128, 192, false),
        (TARGET, WeightFormat::Q4_0, 128, 192, false),
        (Target::Sm75, WeightFormat::Q8_0, 128, 192, true),
        (TARGET, WeightFormat::Q4K, 128, 512, false),
        (TARGET, WeightFormat::Q5K, 128, 512, false),
        (Target::Sm75, WeightFormat::Q6K, 128, 512, false),
        // The medium tile.
        (TARGET, WeightFormat::Q4K, 640, 512, false),
    ];
    let product = |(target, format, rows, cols, more)| {
        let spec = GemmSpec {
            target,
            format,
            rows,
            cols,
            epilogue: Epilogue {
                bias: more,
                residual: more,
            },
        };
        // Together with the outliers' they end in every eighth of a warp's tokens.
        let tokens: &[u32] = if rows <= 512 { &[1, 63] } else { &[1, 23, 127] };
        let mut trial = gemm(spec, tokens, Part::All);
        trial.launches.extend(gemm_of_outliers(spec).launches);
        trial
    };
    shapes.map(product).into_iter().collect()
}

/// Products of batches. Two blocks of rows and of tokens; parts of the columns of several turns, the
/// last one short, or one part.
fn batch_products() -> Vec<Trial> {
    let shapes = [
        (WeightFormat::F32, 130, 416, 8, 3, true),
        (WeightFormat::F16, 128, 416, 16, 1, false),
        (WeightFormat::BF16, 130, 416, 8, 2, false),
        (WeightFormat::Q4_0, 130, 1120, 8, 2, true),
        (WeightFormat::Q8_0, 256, 1120, 16, 2, false),
        (WeightFormat::Q4K, 256, 1280, 16, 2, true),
        (WeightFormat::Q5K, 130, 1280, 8, 2, false),
        (WeightFormat::Q6K, 256, 1280, 16, 2, false),
    ];
    let product = |(format, rows, cols, tokens, splits, more)| {
        let spec = GemmBatchSpec {
            target: TARGET,
            format,
            rows,
            cols,
            tokens,
            splits,
            epilogue: Epilogue {
                bias: more,
                residual: more,
            },
        };
        // The outliers' tokens end behind an even one, these behind an odd one.
        let mut trial = gemm_batch(spec, &[1, tokens + 4], Part::All);
        trial.launches.extend(gemm_batch_of_outliers(spec).launches);
        trial
    };
    shapes.map(product).into_iter().collect()
}

/// Attention of few queries, its merge, and attention of prompts.
fn attention() -> Vec<Trial> {
    let mut trials = few_queries();
    trials.extend(packed_queries());
    trials.extend([(3, 72), (32, 80), (43, 80)].map(|(splits, dim)| {
        let spec = Attention {
            splits,
            // One more than two to each split.
            max_blocks: 2 * splits + 1,
            ..spec(2, 1, dim)
        };
        let longest = 64 * splits + 27;
        let lengths = [0, 1, 33, 64, longest, 64 * splits - 5];
        let case = |spec| Case::new(spec, &lengths, &[0, 1, 2, 1, 3, 0]);
        // Maxima that overflow unless they are subtracted, each split's in some row.
        let large = Attention {
            scale: 100.0,
            ..spec
        };
        let large = Case::new(large, &[longest; 6], &[0; 6]);
        merge(&[case(spec), large], 1e-10)
    }));
    trials.extend(prompts_of_some());
    trials
}

/// Attention of few queries. Together the lengths end in every part of what a warp has in flight,
/// and warps walk more than once.
fn few_queries() -> Vec<Trial> {
    // Splits have unequal numbers of cache blocks.
    let specs = [
        Attention {
            max_blocks: 12,
            ..spec(4, 2, 32)
        },
        Attention {
            splits: 3,
            max_blocks: 16,
            ..spec(6, 2, 40)
        },
        Attention {
            kv_type: KvType::F32,
            window: Some(40),
            softcap: Some(2.0),
            ..spec(10, 2, 64)
        },
        Attention {
            window: Some(276),
            splits: 2,
            max_blocks: 16,
            ..spec(18, 2, 16)
        },
    ];
    let lengths = [0, 1, 20, 30, 33, 45, 64, 96];
    let trial = |spec: Attention| {
        let longest = 32 * spec.max_blocks - 10;
        let mut trial = decode(
            &[
                Case::new(spec, &lengths, &[0, 1, 2, 1, 3, 1, 4, 5]),
                Case::new(spec, &[longest], &[1]),
                Case::of_lowest_score(spec),
            ],
            1e-10,
        );
        let large = Case::new(spec, &[longest, 90], &[1, 0]).with_queries_times(600.0);
        // Scores of hundreds in f32 leave an error of their rounding.
        trial.launches.extend(decode(&[large], 1e-7).launches);
        trial
    };
    specs.map(trial).into_iter().collect()
}

/// Attention of few queries on tensor cores: one row of products and two, pieces of every width,
/// heads that leave registers for the next tile and that do not. Warps walk more than once, and
/// past the block table's end.
fn packed_queries() -> Vec<Trial> {
    let specs = [
        Attention {
            max_blocks: 9,
            ..spec(6, 2, 48)
        },
        Attention {
            splits: 4,
            max_blocks: 15,
            window: Some(270),
            softcap: Some(2.0),
            ..spec(34, 2, 72)
        },
        Attention {
            kv_type: KvType::BF16,
            splits: 2,
            max_blocks: 12,
            window: Some(280),
            ..spec(20, 2, 144)
        },
        Attention {
            kv_type: KvType::Int8,
            max_blocks: 9,
            // As small as queries are large.
            scale: 1e-6,
            ..spec(10, 2, 80)
        },
    ];
    let lengths = [1, 0, 20, 30, 33, 45, 64, 128];
    let trial = |spec: Attention| {
        let longest = 32 * spec.max_blocks - 1;
        let nmse = if spec.kv_type == KvType::BF16 {
            1e-10
        } else {
            1e-12
        };
        let usual = (spec.scale * (spec.head_dim as f32).sqrt()).recip();
        let case = |lengths: &[u32], slots: &[u32]| {
            Case::new(spec, lengths, slots).with_queries_times(usual)
        };
        let mut cases = vec![
            case(&lengths, &[1, 0, 2, 1, 3, 1, 4, 5]),
            case(&[90, 33], &[0, 1]).with_queries_of_all_sizes(),
            case(&[longest], &[1]),
            case(&[longest, 90], &[1, 0]).with_queries_times(600.0),
        ];
        // An f16 holds no values that large.
        if spec.kv_type != KvType::F16 {
            cases.push(case(&[90], &[1]).with_values_times(2f32.powi(24)));
        }
        // No f32 times so small a scale is near the lowest.
        if usual < 1e3 {
            cases.push(Case::of_lowest_score(spec));
        }
        packed_decode(&cases, nmse)
    };
    specs.map(trial).into_iter().collect()
}

/// Attention of prompts.
fn prompts_of_some() -> Vec<Trial> {
    let split = Attention {
        split_queries: true,
        ..spec(4, 2, 40)
    };
    let flashes = [
        (Target::Sm75, spec(4, 2, 64)),
        (TARGET, spec(4, 2, 32)),
        (
            TARGET,
            Attention {
                window: Some(100),
                softcap: Some(2.0),
                ..spec(2, 2, 72)
            },
        ),
        (TARGET, spec(2, 2, 144)),
        (TARGET, split),
        (
            TARGET,
            Attention {
                kv_type: KvType::BF16,
                ..spec(4, 2, 32)
            },
        ),
        (
            TARGET,
            Attention {
                kv_type: KvType::Int8,
                ..spec(4, 2, 32)
            },
        ),
    ];
    let trial = |(target, spec): (Target, Attention)| {
        // A last tile reaches past the block table's end.
        let spec = Attention {
            target,
            max_blocks: 7,
            ..spec
        };
        let mut lengths: Vec<u32> = (1..=76).collect();
        (lengths[3], lengths[12]) = (0, 0);
        lengths[64..].fill(0);
        let falling: Vec<u32> = (0..64).map(|i| 193 - 2 * i).collect();
        let mut short = [140; 64];
        (short[6], short[9], short[30]) = (70, 1, 130);
        let mut slots = [1; 100];
        slots[64..].fill(0);
        let consecutive: Vec<u32> = (125..=224).collect();
        let ends = [1, 6, 19, 32, 45, 58, 70, 83, 97, 109, 122];
        let mut cases: Vec<Case> = ends
            .map(|end| Case::prompt(spec, end - 1, 1))
            .into_iter()
            .collect();
        cases.extend([
            Case::new(spec, &[0], &[0]),
            // The first row ends a key before a tile does, the others behind.
            Case::prompt(spec, 62, 9),
            // Behind a window of 100, no row sees keys of the first tile.
            Case::prompt(spec, 170, 54),
            Case::new(spec, &falling, &[0; 64]),
            Case::new(spec, &short, &[0; 64]),
            Case::new(spec, &lengths, &[0; 76]),
            Case::new(spec, &consecutive, &slots),
        ]);
        if spec.split_queries {
            cases.push(Case::prompt(spec, 0, 64).with_queries_times(30.0));
        }
        // Operands of bf16 hold them as they are.
        if spec.kv_type != KvType::BF16 {
            cases.push(Case::prompt(spec, 0, 33).with_outliers());
        }
        if spec.window.is_some() {
            let windows: Vec<u32> = (157..=220).rev().collect();
            cases.extend([
                // The last row does not see the first key of the second tile.
                Case::prompt(spec, 127, 38),
                Case::prompt(spec, 162, 9),
                // Only the last rows see the first tile.
                Case::new(spec, &windows, &[0; 64]),
            ]);
        }
        prompts(&cases)
    };
    flashes.map(trial).into_iter().collect()
}

/// The sampler: rows of two or three parts, with vectors and without.
fn sampling() -> Vec<Trial> {
    [2056, 2057]
        .into_iter()
        .flat_map(|vocab_size| {
            let spec = SampleSpec {
                target: TARGET,
                vocab_size,
                window_max: 40,
            };
            let mut steps = sample::of_all_kinds(&spec, 6, 3, 1);
            // Those first that notice most.
            steps.extend(sample::near_each(&spec, 1, &[8, 6, 9, 7]));
            steps.extend(sample_hair::hair(&spec));
            steps.extend(sample::near_each(&spec, 1, &[15, 1, 2, 11, 13, 14]));
            steps.extend(sample::of_all_kinds(&spec, 3, 3, 1));
            sample::trials(&spec, steps)
        })
        .collect()
}
