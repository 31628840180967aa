//! Without a Sentinel: somebody promotes by hand.
