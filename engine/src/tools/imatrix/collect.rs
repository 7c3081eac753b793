//! Making an importance matrix: a text goes through the model on the CPU, and what comes into each
//! matrix of a layer is squared and summed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Collected, LAYERS};
use crate::Error;
use crate::exec::{Executor, Step, StepRows};
use crate::kv::BlockTable;
use crate::model::Model;
use crate::plan::{Buf, Op};
use crate::settings::{DeviceChoice, Precision, Settings};
use crate::tools::make_executor;

/// How a text is gone through.
#[derive(Clone, Copy, Debug)]
pub struct CollectOptions {
    /// Tokens of a window; windows know nothing of each other.
    pub context: usize,
    /// The most windows; the text's, if it has fewer.
    pub chunks: Option<usize>,
    /// How products compute.
    pub precision: Precision,
}

/// Rows of a step.
const ROWS: usize = 128;

/// Sums the squares of what comes into every matrix of the layers, over windows of `tokens`, of each of
/// which the first is replaced by `bos` where there is one; `progress` gets the windows done, of how many.
///
/// # Errors
/// The text is shorter than one window, the window does not fit, or something that came in is not finite.
pub fn collect(
    model: &Arc<Model>,
    tokens: &[u32],
    bos: Option<u32>,
    options: CollectOptions,
    mut progress: impl FnMut(usize, usize),
) -> Result<Collected, Error> {
    let context = options.context;
    let most = options.chunks.unwrap_or(usize::MAX);
    let chunks = tokens.len().checked_div(context).unwrap_or(0).min(most);
    if chunks == 0 {
        return Err(Error::Request(format!(
            "no window of {context} in {} tokens; use a longer text or a smaller -c",
            tokens.len()
        )));
    }
    let settings = Settings {
        device: DeviceChoice::Cpu,
        precision: options.precision,
        context: Some(context),
        max_outputs: Some(1),
        ..Settings::default()
    };
    let mut executor = make_executor(model, &settings)?.executor;
    let mut sums = Sums::new(model);
    progress(0, chunks);
    for (i, chunk) in tokens.chunks_exact(context).take(chunks).enumerate() {
        let mut window = chunk.to_vec();
        if let Some(bos) = bos {
            window[0] = bos;
        }
        sums.add_window(executor.as_mut(), &window)?;
        progress(i + 1, chunks);
    }
    Ok(Collected {
        sums: sums.by_name,
        chunks,
        context,
    })
}

struct Sums {
    /// The tensor that each operation of the plan multiplies with, where that is one of a layer and the
    /// first of its parts.
    products: Vec<Option<(Buf, usize, String)>>,
    by_name: BTreeMap<String, (Vec<f64>, u64)>,
}

impl Sums {
    fn new(model: &Model) -> Sums {
        let mut by_name = BTreeMap::new();
        let plan = model.plan();
        let product = |op: &Op| {
            let &Op::MatMul { x, weight, .. } = op else {
                return None;
            };
            let info = plan.weight(weight);
            let name = model.source().tensor(info.view.tensor).name.to_owned();
            let none = (vec![0.0; info.cols], 0);
            let is_first = || by_name.insert(name.clone(), none).is_none();
            (name.starts_with(LAYERS) && is_first()).then_some((x, info.cols, name))
        };
        Sums {
            products: plan.ops.iter().map(product).collect(),
            by_name,
        }
    }

    fn add_window(&mut self, executor: &mut dyn Executor, window: &[u32]) -> Result<(), Error> {
        let limits = executor.limits();
        let mut table =
            BlockTable::new(1, limits.context, BlockTable::blocks_for(1, limits.context));
        table.reserve(0, window.len())?;
        let most = ROWS.min(limits.max_rows);
        for start in (0..window.len()).step_by(most) {
            let end = window.len().min(start + most);
            let rows = StepRows::prompt(&window[start..end], 0, start);
            self.add_step(executor, &rows.step(&table), start)?;
        }
        Ok(())
    }

    /// Runs a step, one operation after the other, up to the last product of a layer.
    fn add_step(
        &mut self,
        executor: &mut dyn Executor,
        step: &Step<'_>,
        position: usize,
    ) -> Result<(), Error> {
        let inspect = executor.inspect();
        inspect.begin(step)?;
        let end = self.products.iter().rposition(Option::is_some);
        let mut latest: Option<(Buf, Vec<f64>)> = None;
        for unit in 0..=end.unwrap_or(0) {
            if let Some((x, cols, name)) = &self.products[unit] {
                // Products of one input follow each other.
                let squares = match latest.take().filter(|(of, _)| of == x) {
                    Some((_, squares)) => squares,
                    None => {
                        let rows = inspect.read(*x)?;
                        let missing = || Error::internal("an input of a product is not kept");
                        squares_of(&rows.ok_or_else(missing)?, *cols)
                    }
                };
                if squares.iter().any(|v| !v.is_finite()) {
                    return Err(Error::Request(format!(
                        "what comes into {name} is not finite in the {} tokens from position {position} \
                         of a window; no importance can be told",
                        step.rows()
                    )));
                }
                if let Some((sums, count)) = self.by_name.get_mut(name) {
                    sums.iter_mut().zip(&squares).for_each(|(sum, v)| *sum += v);
                    *count += step.rows() as u64;
                }
                latest = Some((*x, squares));
            }
            inspect.run_unit(step, unit)?;
        }
        Ok(())
    }
}

/// The sum of the squares of each column.
fn squares_of(rows: &[f32], cols: usize) -> Vec<f64> {
    let mut squares = vec![0.0; cols];
    for row in rows.chunks_exact(cols) {
        for (square, &v) in squares.iter_mut().zip(row) {
            *square += f64::from(v) * f64::from(v);
        }
    }
    squares
}
