//! What the hypervisor says about itself (`version.h`).

constants! {
    XENVER_VERSION: u32 = 0, "Major in the high half, minor in the low half.";
    XENVER_EXTRAVERSION: u32 = 1, "Text of 16 bytes.";
    XENVER_COMPILE_INFO: u32 = 2, "[`XenCompileInfo`].";
    XENVER_CAPABILITIES: u32 = 3, "Text of 1024 bytes.";
    XENVER_CHANGESET: u32 = 4, "Text of 64 bytes.";
    XENVER_PLATFORM_PARAMETERS: u32 = 5, "[`XenPlatformParameters`].";
    XENVER_GET_FEATURES: u32 = 6, "[`XenFeatureInfo`].";
    XENVER_PAGESIZE: u32 = 7, "Size of a page in bytes.";
    XENVER_GUEST_HANDLE: u32 = 8, "The caller's `xen_domain_handle_t`.";
    XENVER_COMMANDLINE: u32 = 9, "Text of 1024 bytes.";
    XENVER_BUILD_ID: u32 = 10, "[`XenBuildId`] and the id's bytes.";
    XEN_EXTRAVERSION_LEN: u32 = 16, "Bytes of the extra version.";
    XEN_CAPABILITIES_INFO_LEN: u32 = 1024, "Bytes of the capabilities.";
    XEN_CHANGESET_INFO_LEN: u32 = 64, "Bytes of the changeset.";
}

/// Bytes of the command line (`xen_commandline_t`).
pub const XEN_COMMANDLINE_LEN: usize = 1024;

wire! {
    /// Who compiled the hypervisor.
    pub struct XenCompileInfo: "struct xen_compile_info" {
        /// The compiler.
        pub compiler: [u8; 64],
        /// The person.
        pub compile_by: [u8; 16],
        /// The person's domain.
        pub compile_domain: [u8; 32],
        /// The date.
        pub compile_date: [u8; 32],
    }
    /// Where the hypervisor is.
    pub struct XenPlatformParameters: "struct xen_platform_parameters" {
        /// First address that is the hypervisor's.
        pub virt_start: u64,
    }
    /// One map of features.
    pub struct XenFeatureInfo: "struct xen_feature_info" {
        /// In: which map.
        pub submap_idx: u32,
        /// Out: its bits.
        pub submap: u32,
    }
    /// Head of the build id; the bytes follow.
    pub struct XenBuildId: "struct xen_build_id" {
        /// In: room for bytes; out: bytes.
        pub len: u32,
    }
}
