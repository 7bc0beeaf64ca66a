//! The JSON of our REST surface: proto JSON with lower-case enum words.
