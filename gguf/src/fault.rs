//! What happens when a mapped file is cut short, or its disk fails, while somebody reads it.
//!
//! The system then raises a bus error at the instruction that read, and nothing in Rust can return from
//! there with an error: a program that did not ask dies without a word. One that asked for it by
//! [`exit_on_fault`] ends with a line that names the file and exit status 1. A bus error anywhere else
//! is left to whoever handled it before.
//!
//! What always holds: the handler calls nothing but `write` and `_exit`, takes no lock and allocates
//! nothing; every map is entered in a table before it is read and taken out before it is unmapped.

use std::io;

/// Makes a fault in a mapped model file the end of the program: one line on standard error that names
/// the file, and exit status 1. For programs; a library leaves such choices to them. Without it, and on
/// systems without such signals, a fault ends the program as the system sees fit.
///
/// Files that are open already are not covered: call it first.
///
/// # Errors
/// The system refuses the handler.
pub fn exit_on_fault() -> io::Result<()> {
    imp::install()
}

pub(crate) use imp::Watch;

#[cfg(unix)]
#[allow(unsafe_code)]
mod imp {
    use std::ffi::{c_int, c_void};
    use std::io;
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
    use std::sync::{Arc, OnceLock};

    /// The maps that can be watched: more shards than a model has.
    const SLOTS: usize = 1024;

    /// A map; `start` is 0 where there is none.
    struct Slot {
        start: AtomicUsize,
        end: AtomicUsize,
        name: AtomicPtr<u8>,
        name_len: AtomicUsize,
    }

    static MAPS: [Slot; SLOTS] = [const {
        Slot {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            name: AtomicPtr::new(ptr::null_mut()),
            name_len: AtomicUsize::new(0),
        }
    }; SLOTS];

    /// Marks a slot that is being filled in: no address.
    const TAKEN: usize = usize::MAX;

    /// Who handled bus errors before; set where this program's handler is.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    /// A map in the table, for as long as this lives; it must end before the map does.
    pub(crate) struct Watch {
        slot: Option<usize>,
        /// What the slot's pointer points to.
        _name: Arc<str>,
    }

    impl Watch {
        /// Enters a map of a file, where faults are handled and the table has room.
        pub(crate) fn new(name: &str, map: &[u8]) -> Watch {
            let name: Arc<str> = name.into();
            let start = map.as_ptr() as usize;
            let is_free = |slot: &Slot| {
                let taken =
                    slot.start
                        .compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed);
                taken.is_ok()
            };
            let is_wanted = BEFORE.get().is_some() && !map.is_empty();
            let slot = is_wanted.then(|| MAPS.iter().position(is_free)).flatten();
            if let Some(slot) = slot {
                let slot = &MAPS[slot];
                slot.end.store(start + map.len(), Ordering::Release);
                // Only read there.
                slot.name.store(name.as_ptr().cast_mut(), Ordering::Release);
                slot.name_len.store(name.len(), Ordering::Release);
                slot.start.store(start, Ordering::Release);
            }
            Watch { slot, _name: name }
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            if let Some(slot) = self.slot {
                MAPS[slot].start.store(0, Ordering::Release);
            }
        }
    }

    pub(super) fn install() -> io::Result<()> {
        if BEFORE.get().is_some() {
            return Ok(());
        }
        // SAFETY: `sigaction` reads the action it is given and writes the old one into the other, both
        // of which live here and are fully initialised: all zeros is a valid action without flags. The
        // handler has the signature that SA_SIGINFO asks for, and does only what a signal handler may.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, ptr::null(), &mut before) != 0 {
                return Err(io::Error::last_os_error());
            }
            let _ = BEFORE.set(before);
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_fault;
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            if libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    const LINE: &[u8] =
        b": the file was cut short, or its disk failed, while it was in use; get it whole again\n";

    extern "C" fn on_fault(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: with SA_SIGINFO the system passes a valid `info`, whose address is set for SIGBUS.
        let address = unsafe { (*info).si_addr() } as usize;
        let is_there = |slot: &&Slot| {
            let start = slot.start.load(Ordering::Acquire);
            start != 0
                && start != TAKEN
                && (start..slot.end.load(Ordering::Acquire)).contains(&address)
        };
        match MAPS.iter().find(is_there) {
            Some(slot) => {
                let name = slot.name.load(Ordering::Acquire);
                let len = slot.name_len.load(Ordering::Acquire);
                // SAFETY: whoever faulted reads the map, so that its `Watch`, which owns the name, is
                // alive; all other buffers are constants. `write` and `_exit` are made for handlers.
                unsafe {
                    libc::write(libc::STDERR_FILENO, b"error: ".as_ptr().cast(), 7);
                    libc::write(libc::STDERR_FILENO, name.cast(), len);
                    libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
                    libc::_exit(1);
                }
            }
            // The instruction runs again, and its fault meets whoever handled it before.
            None => {
                if let Some(before) = BEFORE.get() {
                    // SAFETY: `before` came from `sigaction`.
                    unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) };
                }
            }
        }
    }
}

#[cfg(not(unix))]
mod imp {
    use std::io;

    pub(crate) struct Watch;

    impl Watch {
        pub(crate) fn new(_: &str, _: &[u8]) -> Watch {
            Watch
        }
    }

    pub(super) fn install() -> io::Result<()> {
        Ok(())
    }
}
