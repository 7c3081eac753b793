//! The sizes of an executor: rows, positions, sequences, blocks.

use crate::Error;
use crate::exec::packed::all_block_bytes;
use crate::kv::{BLOCK_TOKENS, BlockTable, KvType};
use crate::model::Model;
use crate::settings::{DEFAULT_CONTEXT, MAX_CONTEXT, MAX_SLOTS, Settings};

/// Bytes that saved blocks take of the host where nobody said otherwise: pinning them takes about a
/// third of a second.
const SAVED_BYTES: usize = 1 << 30;

/// Sizes fixed when an executor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows of the largest step.
    pub max_rows: usize,
    /// Rows of the largest step whose logits are wanted.
    pub max_outputs: usize,
    /// Positions of a sequence.
    pub context: usize,
    /// Sequences at once.
    pub num_slots: usize,
    /// Blocks of the cache, of [`BLOCK_TOKENS`](crate::kv::BLOCK_TOKENS) positions each; sequences
    /// that share a prefix need fewer than `num_slots` contexts of them.
    pub cache_blocks: usize,
    /// Blocks of the cache that the host keeps copies of ([`Executor::save_blocks`]), for sequences that
    /// gave way to others.
    ///
    /// [`Executor::save_blocks`]: crate::exec::Executor::save_blocks
    pub saved_blocks: usize,
    /// Element type of the cache on a GPU and in the interpreter, as asked for: a layer may have another
    /// ([`CacheInfo::kv_type`](crate::plan::CacheInfo::kv_type)). The CPU's is f32.
    pub kv_type: KvType,
}

impl Limits {
    /// Limits of `num_slots` sequences of `context` positions, each with blocks of its own.
    #[must_use]
    pub fn new(num_slots: usize, context: usize) -> Limits {
        Limits {
            max_rows: context.clamp(1, 512).max(num_slots),
            max_outputs: num_slots,
            context,
            num_slots,
            cache_blocks: BlockTable::blocks_for(num_slots, context),
            saved_blocks: 0,
            kv_type: KvType::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_rows: 512,
            max_outputs: 1,
            context: 2048,
            num_slots: 1,
            cache_blocks: BlockTable::blocks_for(1, 2048),
            saved_blocks: 0,
            kv_type: KvType::default(),
        }
    }
}

/// The sizes that the settings ask for, with a device's default for the rows of a step.
///
/// # Errors
/// More than [`MAX_CONTEXT`] positions, or more than the model's tables have rows for, or more than
/// [`MAX_SLOTS`] sequences.
pub(crate) fn limits(model: &Model, settings: &Settings, rows: usize) -> Result<Limits, Error> {
    let context = settings
        .context
        .unwrap_or(model.hparams().context_length.min(DEFAULT_CONTEXT));
    let (context, num_slots) = (context.max(1), settings.slots.unwrap_or(1).max(1));
    let within = |what, found, most| {
        let too_large = Error::TooLarge { what, found, most };
        (found <= most).then_some(()).ok_or(too_large)
    };
    let positions = model.plan().max_positions().unwrap_or(MAX_CONTEXT);
    within("positions of context", context, positions.min(MAX_CONTEXT))?;
    within("sequences at once", num_slots, MAX_SLOTS)?;
    // A batch has a power of two of rows, each with its logits.
    let batch = num_slots.next_power_of_two();
    let max_rows = settings
        .max_rows
        .unwrap_or(rows)
        .clamp(1, context)
        .max(batch);
    let blocks = BlockTable::blocks_for(num_slots, context);
    let cache_blocks = settings.cache_blocks.unwrap_or(blocks).clamp(1, blocks);
    Ok(Limits {
        max_rows,
        max_outputs: settings
            .max_outputs
            .unwrap_or(1)
            .clamp(1, max_rows)
            .max(batch),
        context,
        num_slots,
        cache_blocks,
        saved_blocks: settings.saved_blocks.unwrap_or_else(|| {
            let bytes = all_block_bytes(model.plan(), KvType::F32).max(1);
            // Nobody gives way where there is a block for everything.
            (blocks - cache_blocks)
                .min(context.div_ceil(BLOCK_TOKENS))
                .min(SAVED_BYTES / bytes)
        }),
        kv_type: settings.kv_type,
    })
}
