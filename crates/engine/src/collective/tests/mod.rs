//! Ranks as threads and as processes: what they exchange, and how they end.

mod exchanges;
