//! The screen that dom0 inherits (`dom0_vga_console_info` of `xen.h`).

constants! {
    XEN_VGATYPE_TEXT_MODE_3: u8 = 0x03, "VGA text mode 3.";
    XEN_VGATYPE_VESA_LFB: u8 = 0x23, "VESA linear framebuffer.";
    XEN_VGATYPE_EFI_LFB: u8 = 0x70, "EFI's linear framebuffer.";
}

wire! {
    /// A text screen: what stands at byte 4 of the structure in text mode.
    pub struct TextMode3: "__typeof__(((struct dom0_vga_console_info *)0)->u.text_mode_3)" {
        /// Height of the font in lines.
        pub font_height: u16,
        /// Column of the cursor.
        pub cursor_x: u16,
        /// Row of the cursor.
        pub cursor_y: u16,
        /// Rows of text.
        pub rows: u16,
        /// Columns of text.
        pub columns: u16,
    }
    /// A framebuffer: the whole structure, longest form.
    pub struct Dom0VgaConsoleInfo: "struct dom0_vga_console_info" {
        /// `XEN_VGATYPE_*`.
        pub video_type: u8,
        /// Padding.
        pub _pad: [u8; 3],
        /// Width in pixels.
        pub width("u.vesa_lfb.width"): u16,
        /// Height in pixels.
        pub height("u.vesa_lfb.height"): u16,
        /// Bytes from a line to the next.
        pub bytes_per_line("u.vesa_lfb.bytes_per_line"): u16,
        /// Bits a pixel.
        pub bits_per_pixel("u.vesa_lfb.bits_per_pixel"): u16,
        /// Low half of the machine address.
        pub lfb_base("u.vesa_lfb.lfb_base"): u32,
        /// Size in units of 64 KiB.
        pub lfb_size("u.vesa_lfb.lfb_size"): u32,
        /// Lowest bit of red.
        pub red_pos("u.vesa_lfb.red_pos"): u8,
        /// Bits of red.
        pub red_size("u.vesa_lfb.red_size"): u8,
        /// Lowest bit of green.
        pub green_pos("u.vesa_lfb.green_pos"): u8,
        /// Bits of green.
        pub green_size("u.vesa_lfb.green_size"): u8,
        /// Lowest bit of blue.
        pub blue_pos("u.vesa_lfb.blue_pos"): u8,
        /// Bits of blue.
        pub blue_size("u.vesa_lfb.blue_size"): u8,
        /// Lowest reserved bit.
        pub rsvd_pos("u.vesa_lfb.rsvd_pos"): u8,
        /// Reserved bits.
        pub rsvd_size("u.vesa_lfb.rsvd_size"): u8,
        /// VESA capabilities.
        pub gbl_caps("u.vesa_lfb.gbl_caps"): u32,
        /// VESA mode attributes.
        pub mode_attrs("u.vesa_lfb.mode_attrs"): u16,
        /// Reserved.
        pub pad("u.vesa_lfb.pad"): u16,
        /// High half of the machine address.
        pub ext_lfb_base("u.vesa_lfb.ext_lfb_base"): u32,
    }
}
