//! A kernel with launches whose results are known. Kernel tests run it as it is; the mutation
//! test runs the same launches on changed kernels, so that both mean the same by "right".

use gannet_ptx_gen::interp::{InterpStats, LaunchArg, Memory, Options, Prepared};
use gannet_ptx_gen::ir::Kernel;

/// A kernel and what it must do.
pub struct Trial {
    pub kernel: Kernel,
    pub launches: Vec<Launch>,
}

/// One launch: its arguments, and what their buffers hold afterwards.
pub struct Launch {
    grid: [u32; 3],
    arguments: Vec<Argument>,
    turns: u32,
}

enum Argument {
    Scalar(LaunchArg),
    Buffer(Buffer),
    /// The buffer of an earlier argument.
    Again(usize),
}

struct Buffer {
    start: Start,
    end: End,
}

enum Start {
    Bytes(Vec<u8>),
    /// So many bytes that nothing may read before they are written.
    Poisoned(usize),
}

/// What a buffer holds in the end.
pub enum End {
    /// What it held before.
    Unchanged,
    /// These bytes.
    Bytes(Vec<u8>),
    /// Floats within a normalised mean square error; infinities exactly and zeros nearly so.
    Near { values: Vec<f64>, nmse: f64 },
    /// As [`End::Near`], but of the floats at these indices only.
    Sampled {
        at: Vec<usize>,
        values: Vec<f64>,
        nmse: f64,
    },
    /// Floats, each within `absolute + relative * |value|`.
    Each {
        values: Vec<f64>,
        absolute: f64,
        relative: f64,
    },
}

/// Values as they lie in memory.
pub trait Bytes {
    fn bytes(&self) -> Vec<u8>;
}

impl Bytes for [u8] {
    fn bytes(&self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Bytes for [u16] {
    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|v| v.to_le_bytes()).collect()
    }
}

impl Bytes for [u32] {
    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|v| v.to_le_bytes()).collect()
    }
}

impl Bytes for [f32] {
    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|v| v.to_le_bytes()).collect()
    }
}

/// The floats of a buffer.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.chunks_exact(4);
    words
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

impl Launch {
    pub fn new(grid: [u32; 3]) -> Launch {
        Launch {
            grid,
            arguments: Vec::new(),
            turns: 1,
        }
    }

    /// Launches so many times in a row.
    pub fn turns(mut self, turns: u32) -> Launch {
        self.turns = turns;
        self
    }

    pub fn scalar(mut self, value: LaunchArg) -> Launch {
        self.arguments.push(Argument::Scalar(value));
        self
    }

    /// A buffer that the kernel only reads.
    pub fn input<T: Copy>(self, values: &[T]) -> Launch
    where
        [T]: Bytes,
    {
        self.in_out(values, End::Unchanged)
    }

    /// A buffer with content that the kernel changes.
    pub fn in_out<T: Copy>(mut self, values: &[T], end: End) -> Launch
    where
        [T]: Bytes,
    {
        let start = Start::Bytes(values.bytes());
        self.arguments.push(Argument::Buffer(Buffer { start, end }));
        self
    }

    /// A buffer of `bytes` bytes that the kernel fills.
    pub fn output(mut self, bytes: usize, end: End) -> Launch {
        let start = Start::Poisoned(bytes);
        self.arguments.push(Argument::Buffer(Buffer { start, end }));
        self
    }

    /// A buffer of floats that the kernel fills.
    pub fn floats(self, values: Vec<f64>, nmse: f64) -> Launch {
        self.output(4 * values.len(), End::Near { values, nmse })
    }

    /// The buffer of the `n`-th argument once more.
    pub fn again(mut self, n: usize) -> Launch {
        self.arguments.push(Argument::Again(n));
        self
    }

    /// Runs the kernel and gives the final content of every buffer, in the arguments' order.
    pub fn run(
        &self,
        kernel: &Prepared,
        options: &Options,
    ) -> Result<(Vec<Vec<u8>>, InterpStats), String> {
        let mut memory = Memory::new();
        let mut args: Vec<LaunchArg> = Vec::new();
        let mut buffers = Vec::new();
        for argument in &self.arguments {
            args.push(match argument {
                Argument::Scalar(value) => *value,
                Argument::Again(n) => args[*n],
                Argument::Buffer(buffer) => {
                    let (at, len) = match &buffer.start {
                        Start::Bytes(bytes) => (memory.alloc_from(bytes), bytes.len()),
                        Start::Poisoned(len) => (memory.alloc_poisoned(*len as u64), *len),
                    };
                    buffers.push((at, len));
                    LaunchArg::U64(at)
                }
            });
        }
        let mut stats = InterpStats::default();
        for _ in 0..self.turns {
            let launched = kernel.launch(self.grid, &args, &memory, options);
            stats = launched.map_err(|fault| fault.to_string())?;
        }
        let read = |(at, len)| memory.read::<u8>(at, len).map_err(|e| e.to_string());
        let contents: Result<Vec<_>, _> = buffers.into_iter().map(read).collect();
        Ok((contents?, stats))
    }

    /// Runs the kernel and says what is wrong with the outcome.
    pub fn check(&self, kernel: &Prepared, options: &Options) -> Result<InterpStats, String> {
        let (contents, stats) = self.run(kernel, options)?;
        let buffers = self.arguments.iter().filter_map(|a| match a {
            Argument::Buffer(buffer) => Some(buffer),
            _ => None,
        });
        for (i, (buffer, found)) in buffers.zip(&contents).enumerate() {
            buffer
                .check(found)
                .map_err(|why| format!("grid {:?}, buffer {i}: {why}", self.grid))?;
        }
        Ok(stats)
    }
}

impl Buffer {
    fn check(&self, found: &[u8]) -> Result<(), String> {
        match &self.end {
            End::Unchanged => match &self.start {
                Start::Bytes(bytes) => same(found, bytes),
                Start::Poisoned(_) => Ok(()),
            },
            End::Bytes(bytes) => same(found, bytes),
            End::Near { values, nmse } => near(&floats(found), values, *nmse),
            End::Sampled { at, values, nmse } => {
                let found = floats(found);
                let some: Vec<f32> = at.iter().map(|i| found[*i]).collect();
                near(&some, values, *nmse)
            }
            End::Each {
                values,
                absolute,
                relative,
            } => {
                for (i, (a, b)) in floats(found).into_iter().zip(values).enumerate() {
                    let most = absolute + relative * b.abs();
                    let off = (f64::from(a) - b).abs();
                    if off > most || off.is_nan() {
                        return Err(format!("element {i} is {a}, not {b}"));
                    }
                }
                Ok(())
            }
        }
    }
}

fn same(found: &[u8], expected: &[u8]) -> Result<(), String> {
    match found.iter().zip(expected).position(|(a, b)| a != b) {
        Some(i) => Err(format!("byte {i} is {}, not {}", found[i], expected[i])),
        None => Ok(()),
    }
}

fn near(found: &[f32], expected: &[f64], most: f64) -> Result<(), String> {
    let exact = |b: f64| b == 0.0 || b.is_infinite();
    for (i, (&a, &b)) in found.iter().zip(expected).enumerate() {
        // In f64 a saturated gate gives zero, where f32 leaves its rounding.
        let right = f64::from(a) == b || (b == 0.0 && a.abs() <= 1e-12);
        if exact(b) && !right {
            return Err(format!("element {i} is {a}, not {b}"));
        }
    }
    let rest = found.iter().zip(expected).filter(|(_, b)| !exact(**b));
    let (found, expected): (Vec<f32>, Vec<f64>) = rest.map(|(a, b)| (*a, *b)).unzip();
    let error = super::nmse(&found, &expected);
    if error <= most {
        Ok(())
    } else {
        Err(format!("NMSE {error:e}, more than {most:e}"))
    }
}

impl Trial {
    /// Checks a kernel, this one or a mutant of it, in every launch. Gives the most warp
    /// instructions that one launch took.
    pub fn check(&self, kernel: &Kernel, options: &Options) -> Result<u64, String> {
        let prepared = Prepared::new(kernel).map_err(|fault| fault.to_string())?;
        self.check_prepared(&prepared, options)
    }

    /// [`Trial::check`] of a kernel that has been verified.
    pub fn check_prepared(&self, kernel: &Prepared, options: &Options) -> Result<u64, String> {
        let mut most = 0;
        for launch in &self.launches {
            most = most.max(launch.check(kernel, options)?.warp_instructions);
        }
        Ok(most)
    }

    /// Fails the test unless the kernel passes.
    pub fn pass(&self) {
        let name = &self.kernel.name;
        if let Err(why) = self.check(&self.kernel, &Options::default()) {
            panic!("{name}: {why}");
        }
    }

    /// The floats of the `n`-th buffer after each launch.
    pub fn results(&self, n: usize) -> Vec<Vec<f32>> {
        let run = |launch: &Launch| {
            let kernel = Prepared::new(&self.kernel).map_err(|fault| fault.to_string())?;
            let (contents, _) = launch.run(&kernel, &Options::default())?;
            Ok(floats(&contents[n]))
        };
        let results: Result<_, String> = self.launches.iter().map(run).collect();
        results.unwrap_or_else(|why| panic!("{}: {why}", self.kernel.name))
    }
}
