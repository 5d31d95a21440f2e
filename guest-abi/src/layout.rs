//! What the wire macros report about a structure, for comparison with C.

/// A structure as Rust lays it out.
pub(crate) struct Layout {
    /// Its type in C.
    pub c_type: &'static str,
    /// Bytes.
    pub size: usize,
    /// C name (empty for padding), byte offset and size of each field.
    pub fields: Vec<(&'static str, usize, usize)>,
}

/// The field's name in C; padding has none.
pub(crate) fn c_field(field: &'static str, renamed: &[&'static str]) -> &'static str {
    match renamed {
        [name, ..] => name,
        [] if field.starts_with('_') => "",
        [] => field,
    }
}

/// Bytes of the field that `project` names.
pub(crate) fn size_of_field<S, T>(_project: impl Fn(&S) -> &T) -> usize {
    size_of::<T>()
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
