//! Parameters of a kernel: one list declares them, and the program binds them by name.
//!
//! The list exists without the kernel ([`crate::kernels`]' specs give it by `params()`), so that a
//! launch can be put together, and what it reads and writes be told, from names alone.

use super::{Builder, Ptr, Type, Val};
use crate::ir::{Access, Param, Pointee, Ty};

impl Param {
    /// A pointer to elements that the kernel reads.
    pub fn input<T: Type>(name: &str) -> Param {
        Param::pointer::<T>(name, Access::Read)
    }

    /// A pointer to elements that the kernel writes.
    pub fn output<T: Type>(name: &str) -> Param {
        Param::pointer::<T>(name, Access::Write)
    }

    /// A pointer to elements that the kernel reads and writes.
    pub fn in_out<T: Type>(name: &str) -> Param {
        Param::pointer::<T>(name, Access::ReadWrite)
    }

    /// A number passed by value.
    pub fn scalar<T: Type>(name: &str) -> Param {
        Param {
            name: name.into(),
            ty: T::TY,
            pointee: None,
        }
    }

    pub(super) fn pointer<T: Type>(name: &str, access: Access) -> Param {
        Param {
            name: name.into(),
            ty: Ty::U64,
            pointee: Some(Pointee { ty: T::TY, access }),
        }
    }
}

impl Builder {
    /// Declares the parameters in launch order. Each is to be bound, once or more often.
    pub fn declare(&self, params: Vec<Param>) {
        self.state.borrow_mut().params.extend(params);
    }

    /// The declared pointer of that name.
    ///
    /// # Panics
    ///
    /// When no pointer to such elements was declared by that name.
    #[track_caller]
    pub fn bind<T: Type>(&self, name: &str) -> Ptr<'_, T> {
        match self.bind_if(name) {
            Some(found) => found,
            None => panic!("no parameter {name} was declared"),
        }
    }

    /// The pointer of that name, if it was declared.
    ///
    /// # Panics
    ///
    /// When something else was declared by that name.
    #[track_caller]
    pub fn bind_if<T: Type>(&self, name: &str) -> Option<Ptr<'_, T>> {
        let (index, param) = self.declared(name)?;
        let element = param.pointee.map(|pointee| pointee.ty);
        assert!(
            element == Some(T::TY),
            "{name} was declared as {element:?}, and bound to elements of {}",
            T::TY
        );
        Some(self.load_pointer(index))
    }

    /// The declared number of that name.
    ///
    /// # Panics
    ///
    /// When no such number was declared by that name.
    #[track_caller]
    pub fn bind_value<T: Type>(&self, name: &str) -> Val<'_, T> {
        match self.declared(name) {
            Some((index, param)) if param.pointee.is_none() && param.ty == T::TY => {
                self.load_param(index)
            }
            found => panic!("{name} was declared as {found:?}, and bound as {}", T::TY),
        }
    }

    fn declared(&self, name: &str) -> Option<(u32, Param)> {
        let params = &self.state.borrow().params;
        let index = params.iter().position(|param| param.name == name)?;
        Some((index as u32, params[index].clone()))
    }
}
