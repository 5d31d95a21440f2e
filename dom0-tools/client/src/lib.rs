//! Typed access to what Linux offers a tool stack in dom0: privcmd, evtchn, gntdev, xenbus.
