//! Typed pointers to device memory.

use std::marker::PhantomData;

use super::val::Repr;
use super::{AsVal, Builder, Type, Val};
use crate::ir::{Address, Base, Operand, Ty};
use crate::op::{Cache, Opcode, Order, Rmw, Scope, Space};

/// A pointer to elements of `T` in device memory; indices count elements.
///
/// Index arithmetic must not wrap around: `load(i + 3)` is emitted as the address of `i` with a
/// constant byte offset.
#[derive(Clone, Copy)]
pub struct Ptr<'k, T> {
    base: Val<'k, u64>,
    /// Constant bytes beyond `base`.
    offset: i64,
    cache: Cache,
    ty: PhantomData<T>,
}

/// What may index a [`Ptr`]: a `u32` literal or value, or a `u64` value.
pub trait Index<'k>: Copy {
    /// The index as (variable part, constant part).
    fn split(self, k: &'k Builder) -> (Option<IndexVal<'k>>, i64);
}

/// The variable part of an index.
#[derive(Clone, Copy)]
pub enum IndexVal<'k> {
    /// Zero-extended when the address is computed.
    Word(Val<'k, u32>),
    /// Full width.
    Long(Val<'k, u64>),
}

impl<'k> Index<'k> for u32 {
    fn split(self, _: &'k Builder) -> (Option<IndexVal<'k>>, i64) {
        (None, i64::from(self))
    }
}

impl<'k> Index<'k> for Val<'k, u32> {
    fn split(self, k: &'k Builder) -> (Option<IndexVal<'k>>, i64) {
        let (base, offset) = split_word(k, self);
        (base.map(IndexVal::Word), offset)
    }
}

impl<'k> Index<'k> for Val<'k, u64> {
    fn split(self, _: &'k Builder) -> (Option<IndexVal<'k>>, i64) {
        match self.known() {
            Some(c) => (None, c as i64),
            None => (Some(IndexVal::Long(self)), 0),
        }
    }
}

/// `value` as a register plus a constant.
pub(super) fn split_word<'k>(k: &'k Builder, value: Val<'k, u32>) -> (Option<Val<'k, u32>>, i64) {
    match value.repr {
        Repr::Imm(imm) => (None, imm.bits as i64),
        Repr::Reg(r) => match k.state.borrow().offsets.get(&r) {
            Some((base, offset)) => (Some(Val::reg(k, *base)), *offset),
            None => (Some(value), 0),
        },
    }
}

impl<'k, T: Type> Ptr<'k, T> {
    pub(super) fn new(base: Val<'k, u64>) -> Ptr<'k, T> {
        Ptr {
            base,
            offset: 0,
            cache: Cache::default(),
            ty: PhantomData,
        }
    }

    /// Loads go through the read-only path: nothing may write this memory while the kernel runs,
    /// not even through another parameter.
    pub fn read_only(self) -> Ptr<'k, T> {
        Ptr {
            cache: Cache {
                nc: true,
                ..self.cache
            },
            ..self
        }
    }

    /// Read-only memory that is read once: loads leave no trace in L1 and fetch 128 bytes into
    /// L2. What weights want.
    pub fn streaming(self) -> Ptr<'k, T> {
        Ptr {
            cache: Cache {
                nc: true,
                no_allocate: true,
                l2_128: true,
            },
            ..self
        }
    }

    /// Loads with these cache hints.
    pub fn with_cache(self, cache: Cache) -> Ptr<'k, T> {
        Ptr { cache, ..self }
    }

    /// The same address, seen as elements of `U`.
    pub fn cast<U: Type>(self) -> Ptr<'k, U> {
        Ptr {
            base: self.base,
            offset: self.offset,
            cache: self.cache,
            ty: PhantomData,
        }
    }

    /// The pointer `index` elements further on.
    #[track_caller]
    pub fn offset(self, index: impl Index<'k>) -> Ptr<'k, T> {
        let (base, offset) = self.locate(index);
        Ptr {
            base,
            offset,
            ..self
        }
    }

    /// The pointer a constant number of bytes further on.
    pub fn byte_offset(self, bytes: u64) -> Ptr<'k, T> {
        Ptr {
            offset: self.offset + bytes as i64,
            ..self
        }
    }

    /// The address as a value.
    #[track_caller]
    pub fn address(self) -> Val<'k, u64> {
        self.base + self.offset as u64
    }

    /// Base register and constant bytes of element `index`.
    #[track_caller]
    fn locate(self, index: impl Index<'k>) -> (Val<'k, u64>, i64) {
        let k = self.base.k;
        let bytes = T::TY.bytes();
        let (variable, constant) = index.split(k);
        let base = match variable {
            None => self.base,
            Some(IndexVal::Word(i)) => k.value(
                Opcode::MadWide { ty: Ty::U32 },
                &[
                    i.operand(),
                    k.constant(bytes).operand(),
                    self.base.operand(),
                ],
            ),
            Some(IndexVal::Long(i)) => self.base + i * u64::from(bytes),
        };
        (base, self.offset + constant * i64::from(bytes))
    }

    /// The address operand of element `index`.
    #[track_caller]
    pub(super) fn at(self, index: impl Index<'k>) -> Operand {
        let (base, offset) = self.locate(index);
        match i32::try_from(offset) {
            Ok(offset) => Operand::Addr(Address {
                base: Base::Reg(base.to_reg()),
                offset,
            }),
            Err(_) => {
                let base = (base + offset as u64).to_reg();
                Operand::Addr(Address {
                    base: Base::Reg(base),
                    offset: 0,
                })
            }
        }
    }

    #[track_caller]
    fn read<const N: usize>(self, index: impl Index<'k>, order: Order) -> [Val<'k, T>; N] {
        let k = self.base.k;
        let cache = if order == Order::Weak {
            self.cache
        } else {
            Cache::default()
        };
        let op = Opcode::Ld {
            space: Space::Global,
            ty: T::TY,
            vec: N as u8,
            order,
            cache,
        };
        let address = self.at(index);
        let regs = k.emit(op, &[T::TY; N], &[address]);
        std::array::from_fn(|i| Val::reg(k, regs[i]))
    }

    #[track_caller]
    fn write<const N: usize>(self, index: impl Index<'k>, values: [Val<'k, T>; N], order: Order) {
        let op = Opcode::St {
            space: Space::Global,
            ty: T::TY,
            vec: N as u8,
            order,
        };
        let mut src = vec![self.at(index)];
        let single = N == 1;
        src.extend(values.iter().map(|v| {
            if single {
                v.operand()
            } else {
                v.in_reg().operand()
            }
        }));
        self.base.k.emit(op, &[], &src);
    }

    /// Element `index`.
    #[track_caller]
    pub fn load(self, index: impl Index<'k>) -> Val<'k, T> {
        let [v] = self.read::<1>(index, Order::Weak);
        v
    }

    /// `N` (1, 2 or 4, at most 16 bytes together) consecutive elements from `index`, whose
    /// address must be a multiple of their size together.
    #[track_caller]
    pub fn load_vec<const N: usize>(self, index: impl Index<'k>) -> [Val<'k, T>; N] {
        self.read(index, Order::Weak)
    }

    /// [`Ptr::load_vec`] of four elements.
    #[track_caller]
    pub fn load_vec4(self, index: impl Index<'k>) -> [Val<'k, T>; 4] {
        self.read(index, Order::Weak)
    }

    /// Element `index`, with a memory order.
    #[track_caller]
    pub fn load_ordered(self, index: impl Index<'k>, order: Order) -> Val<'k, T> {
        let [v] = self.read::<1>(index, order);
        v
    }

    /// Stores element `index`.
    #[track_caller]
    pub fn store(self, index: impl Index<'k>, value: impl AsVal<'k, T>) {
        self.write(index, [value.val(self.base.k)], Order::Weak);
    }

    /// Stores consecutive elements from `index`; alignment as in [`Ptr::load_vec`].
    #[track_caller]
    pub fn store_vec<const N: usize>(self, index: impl Index<'k>, values: [Val<'k, T>; N]) {
        self.write(index, values, Order::Weak);
    }

    /// Stores element `index`, with a memory order.
    #[track_caller]
    pub fn store_ordered(self, index: impl Index<'k>, value: impl AsVal<'k, T>, order: Order) {
        self.write(index, [value.val(self.base.k)], order);
    }

    /// Atomically replaces element `index` by `f` of it and `value`; gives the former content.
    #[track_caller]
    pub fn atomic(
        self,
        f: Rmw,
        index: impl Index<'k>,
        value: impl AsVal<'k, T>,
        order: Order,
    ) -> Val<'k, T> {
        let k = self.base.k;
        let op = Opcode::Atom {
            space: Space::Global,
            f,
            ty: T::TY,
            order,
        };
        let address = self.at(index);
        k.value(op, &[address, value.val(k).operand()])
    }

    /// Atomically adds to element `index`, relaxed and GPU-wide; gives the former content.
    #[track_caller]
    pub fn atomic_add(self, index: impl Index<'k>, value: impl AsVal<'k, T>) -> Val<'k, T> {
        self.atomic(Rmw::Add, index, value, Order::Relaxed(Scope::Gpu))
    }

    /// Brings the cache line of element `index` to L2.
    #[track_caller]
    pub fn prefetch_l2(self, index: impl Index<'k>) {
        let address = self.at(index);
        self.base.k.emit(Opcode::PrefetchL2, &[], &[address]);
    }
}
