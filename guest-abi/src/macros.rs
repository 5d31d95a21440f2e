//! How constants and wire structures are written down once for Rust and for the layout tests.

/// Declares public constants, one a row, and lists them for the layout test.
macro_rules! constants {
    ($($name:ident: $type:ty = $value:expr, $doc:literal;)*) => {
        $(#[doc = $doc] pub const $name: $type = $value;)*

        /// What this module declares, for the comparison with the C headers.
        #[cfg(test)]
        pub(crate) const CONSTANTS: &[(&str, i128)] = &[$((stringify!($name), $name as i128)),*];
    };
}

/// Declares wire structures of the public headers.
///
/// After the Rust name comes the C type. A field whose C name differs has it in parentheses; fields that begin
/// with `_` are padding or reserved and have no C counterpart. Every structure is free of implicit padding
/// (`IntoBytes` would not derive otherwise); its default is all zeroes.
macro_rules! wire {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident: $ctype:literal {
            $($(#[$fmeta:meta])* pub $field:ident $(($cname:literal))?: $type:ty,)*
        }
    )*) => {
        $(
            $(#[$meta])*
            #[doc = ""]
            #[doc = concat!("In the public headers: `", $ctype, "`.")]
            #[repr(C)]
            #[derive(
                Clone, Copy, Debug, PartialEq, Eq, ::zerocopy::FromBytes, ::zerocopy::IntoBytes,
                ::zerocopy::Immutable, ::zerocopy::KnownLayout,
            )]
            pub struct $name {
                $($(#[$fmeta])* pub $field: $type,)*
            }

            impl Default for $name {
                fn default() -> Self {
                    ::zerocopy::FromZeros::new_zeroed()
                }
            }
        )*

        /// What this module declares, for the comparison with the C headers.
        #[cfg(test)]
        pub(crate) fn layouts() -> Vec<crate::layout::Layout> {
            vec![$(
                crate::layout::Layout {
                    c_type: $ctype,
                    size: core::mem::size_of::<$name>(),
                    fields: vec![$((
                        crate::layout::c_field(stringify!($field), &[$($cname)?]),
                        core::mem::offset_of!($name, $field),
                        crate::layout::size_of_field(|s: &$name| &s.$field),
                    )),*],
                }
            ),*]
        }
    };
}
