//! Typed arrays in the block's shared memory.

use std::marker::PhantomData;

use super::ptr::split_word;
use super::{AsVal, Builder, Type, Val};
use crate::ir::{Address, Base, Operand, SharedDecl, Ty};
use crate::op::{Cache, Opcode, Order, Rmw, Scope, Space};

/// An array of `T` in shared memory, or a part of one; indices count elements and are `u32`.
#[derive(Clone, Copy)]
pub struct Shared<'k, T> {
    k: &'k Builder,
    decl: u32,
    /// Window address when it is not simply the declaration's.
    base: Option<Val<'k, u32>>,
    /// Constant bytes beyond the base.
    offset: i64,
    ty: PhantomData<T>,
}

impl Builder {
    /// A static array of `len` elements, aligned to 16 bytes.
    pub fn shared<T: Type>(&self, name: &str, len: u32) -> Shared<'_, T> {
        self.declare_shared(name, T::TY, len * T::TY.bytes(), 16, false)
    }

    /// A static array of `len` elements with an alignment in bytes (a power of two).
    pub fn shared_aligned<T: Type>(&self, name: &str, len: u32, align: u32) -> Shared<'_, T> {
        self.declare_shared(name, T::TY, len * T::TY.bytes(), align, false)
    }

    /// The dynamic array of the kernel, `len` elements, aligned to 16 bytes. Parts of it are cut
    /// with [`Shared::at`] and [`Shared::cast`].
    ///
    /// # Panics
    ///
    /// When the kernel has one already.
    pub fn dynamic_shared<T: Type>(&self, name: &str, len: u32) -> Shared<'_, T> {
        self.one_dynamic(name, T::TY, len * T::TY.bytes(), 16)
    }

    pub(super) fn one_dynamic<T: Type>(
        &self,
        name: &str,
        ty: Ty,
        bytes: u32,
        align: u32,
    ) -> Shared<'_, T> {
        let mut state = self.state.borrow_mut();
        assert!(
            state.shared.iter().all(|d| !d.dynamic),
            "a kernel has one dynamic array"
        );
        state.dynamic_shared = bytes;
        drop(state);
        // The name is one of the module, where several kernels may end up: make it theirs.
        self.declare_shared(name, ty, 0, align, true)
    }

    fn declare_shared<T: Type>(
        &self,
        name: &str,
        ty: Ty,
        bytes: u32,
        align: u32,
        dynamic: bool,
    ) -> Shared<'_, T> {
        let shared = &mut self.state.borrow_mut().shared;
        let taken = shared
            .iter()
            .filter(|d| {
                d.name
                    .trim_end_matches(|c: char| c.is_ascii_digit() || c == '$')
                    == name
            })
            .count();
        let name = if taken == 0 {
            name.to_owned()
        } else {
            format!("{name}${taken}")
        };
        shared.push(SharedDecl {
            name,
            ty,
            bytes,
            align,
            dynamic,
        });
        let decl = shared.len() as u32 - 1;
        Shared {
            k: self,
            decl,
            base: None,
            offset: 0,
            ty: PhantomData,
        }
    }
}

impl<'k, T: Type> Shared<'k, T> {
    /// The same place, seen as elements of `U`.
    pub fn cast<U: Type>(self) -> Shared<'k, U> {
        Shared {
            k: self.k,
            decl: self.decl,
            base: self.base,
            offset: self.offset,
            ty: PhantomData,
        }
    }

    /// The array from element `index` on.
    #[track_caller]
    pub fn at(self, index: impl AsVal<'k, u32>) -> Shared<'k, T> {
        let (base, offset) = self.locate(index);
        Shared {
            base,
            offset,
            ..self
        }
    }

    /// The array from a constant number of bytes on.
    pub fn byte_offset(self, bytes: u32) -> Shared<'k, T> {
        Shared {
            offset: self.offset + i64::from(bytes),
            ..self
        }
    }

    /// Window address of element `index`.
    #[track_caller]
    pub fn address(self, index: impl AsVal<'k, u32>) -> Val<'k, u32> {
        let (base, offset) = self.locate(index);
        let base = base.unwrap_or_else(|| self.symbol());
        base + offset as u32
    }

    /// Window address of the declaration.
    #[track_caller]
    fn symbol(self) -> Val<'k, u32> {
        let address = Address {
            base: Base::Shared(self.decl),
            offset: 0,
        };
        self.k
            .value(Opcode::SharedAddress, &[Operand::Addr(address)])
    }

    #[track_caller]
    fn locate(self, index: impl AsVal<'k, u32>) -> (Option<Val<'k, u32>>, i64) {
        let bytes = T::TY.bytes();
        let (variable, constant) = split_word(self.k, index.val(self.k));
        let base = match variable {
            None => self.base,
            Some(i) => Some(i * bytes + self.base.unwrap_or_else(|| self.symbol())),
        };
        (base, self.offset + constant * i64::from(bytes))
    }

    /// The address operand of element `index`.
    #[track_caller]
    pub(super) fn operand(self, index: impl AsVal<'k, u32>) -> Operand {
        let (base, offset) = self.locate(index);
        let base = match base {
            Some(v) => Base::Reg(v.to_reg()),
            None => Base::Shared(self.decl),
        };
        Operand::Addr(Address {
            base,
            offset: offset as i32,
        })
    }

    #[track_caller]
    fn read<const N: usize>(self, index: impl AsVal<'k, u32>, order: Order) -> [Val<'k, T>; N] {
        let cache = Cache::default();
        let op = Opcode::Ld {
            space: Space::Shared,
            ty: T::TY,
            vec: N as u8,
            order,
            cache,
        };
        let address = self.operand(index);
        let regs = self.k.emit(op, &[T::TY; N], &[address]);
        std::array::from_fn(|i| Val::reg(self.k, regs[i]))
    }

    /// Element `index`.
    #[track_caller]
    pub fn load(self, index: impl AsVal<'k, u32>) -> Val<'k, T> {
        let [v] = self.read::<1>(index, Order::Weak);
        v
    }

    /// `N` (1, 2 or 4, at most 16 bytes together) consecutive elements from `index`, whose
    /// address must be a multiple of their size together.
    #[track_caller]
    pub fn load_vec<const N: usize>(self, index: impl AsVal<'k, u32>) -> [Val<'k, T>; N] {
        self.read(index, Order::Weak)
    }

    /// Element `index`, not from a register.
    #[track_caller]
    pub fn load_volatile(self, index: impl AsVal<'k, u32>) -> Val<'k, T> {
        let [v] = self.read::<1>(index, Order::Volatile);
        v
    }

    /// Stores element `index`.
    #[track_caller]
    pub fn store(self, index: impl AsVal<'k, u32>, value: impl AsVal<'k, T>) {
        self.store_vec(index, [value.val(self.k)]);
    }

    /// Stores consecutive elements from `index`; alignment as in [`Shared::load_vec`].
    #[track_caller]
    pub fn store_vec<const N: usize>(self, index: impl AsVal<'k, u32>, values: [Val<'k, T>; N]) {
        let op = Opcode::St {
            space: Space::Shared,
            ty: T::TY,
            vec: N as u8,
            order: Order::Weak,
        };
        let mut src = vec![self.operand(index)];
        let single = N == 1;
        src.extend(values.iter().map(|v| {
            if single {
                v.operand()
            } else {
                v.in_reg().operand()
            }
        }));
        self.k.emit(op, &[], &src);
    }

    /// Atomically replaces element `index` by `f` of it and `value`, relaxed within the block;
    /// gives the former content.
    #[track_caller]
    pub fn atomic(
        self,
        f: Rmw,
        index: impl AsVal<'k, u32>,
        value: impl AsVal<'k, T>,
    ) -> Val<'k, T> {
        let order = Order::Relaxed(Scope::Cta);
        let op = Opcode::Atom {
            space: Space::Shared,
            f,
            ty: T::TY,
            order,
        };
        let address = self.operand(index);
        self.k.value(op, &[address, value.val(self.k).operand()])
    }
}

impl<'k, T: Type> Shared<'k, T> {
    /// Alignment of the declaration.
    pub(super) fn alignment(self) -> u32 {
        self.k.state.borrow().shared[self.decl as usize].align
    }

    /// Bytes from the declaration to element `index`, where they are constant.
    #[track_caller]
    pub(super) fn constant_offset(self, index: impl AsVal<'k, u32>) -> Option<i64> {
        let (base, offset) = self.locate(index);
        base.is_none().then_some(offset)
    }
}

impl<'k, T> Shared<'k, T> {
    pub(super) fn builder(self) -> &'k Builder {
        self.k
    }
}
