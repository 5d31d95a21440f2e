//! Atomics and locks of what several CPUs do at once: the processor's and spin locks; or, to explore orders, loom's
//! (`interleavings`).

#[cfg(not(feature = "loom"))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
#[cfg(not(feature = "loom"))]
pub(crate) use spin::{Mutex, MutexGuard};

#[cfg(feature = "loom")]
pub(crate) use explored::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Mutex, MutexGuard};

/// A function that makes atomics: constant, but not with loom, where each belongs to one run.
macro_rules! const_unless_explored {
    ($(#[$attribute:meta])* $visible:vis fn $name:ident($($argument:tt)*) -> $result:ty $body:block) => {
        #[cfg(not(feature = "loom"))]
        $(#[$attribute])*
        $visible const fn $name($($argument)*) -> $result $body

        #[cfg(feature = "loom")]
        $(#[$attribute])*
        $visible fn $name($($argument)*) -> $result $body
    };
}
pub(crate) use const_unless_explored;

#[cfg(feature = "loom")]
mod explored {
    use core::sync::atomic::Ordering;
    pub(crate) use loom::sync::MutexGuard;
    use loom::sync::atomic::{self, fence};

    /// As [`spin::Mutex`].
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
        }
    }

    /// Loom takes `SeqCst` for `AcqRel` but in fences.
    fn fence_of(ordering: Ordering) {
        if ordering == Ordering::SeqCst {
            fence(Ordering::SeqCst);
        }
    }

    macro_rules! atomics {
        ($($name:ident: $value:ty, [$($change:ident),*];)*) => {$(
            #[derive(Debug, Default)]
            pub(crate) struct $name(atomic::$name);

            #[allow(dead_code, reason = "not each is used of each width")]
            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub(crate) fn load(&self, ordering: Ordering) -> $value {
                    fence_of(ordering);
                    self.0.load(ordering)
                }

                pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                    self.0.store(value, ordering);
                    fence_of(ordering);
                }

                pub(crate) fn compare_exchange(
                    &self,
                    old: $value,
                    new: $value,
                    ordering: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    fence_of(ordering);
                    let result = self.0.compare_exchange(old, new, ordering, failure);
                    fence_of(ordering);
                    result
                }

                $(pub(crate) fn $change(&self, value: $value, ordering: Ordering) -> $value {
                    fence_of(ordering);
                    let old = self.0.$change(value, ordering);
                    fence_of(ordering);
                    old
                })*
            }
        )*};
    }

    atomics! {
        AtomicBool: bool, [swap, fetch_or, fetch_and];
        AtomicU8: u8, [swap, fetch_or, fetch_and];
        AtomicU32: u32, [swap, fetch_or, fetch_and, fetch_xor, fetch_add, fetch_sub, fetch_max, fetch_min];
        AtomicU64: u64, [swap, fetch_or, fetch_and, fetch_xor, fetch_add, fetch_sub, fetch_max, fetch_min];
    }
}
