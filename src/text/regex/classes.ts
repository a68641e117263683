/** Classes of characters as Rust and Oniguruma have them, as the inside of JavaScript's with the flag `v`. */

/** With U+0085, without U+FEFF. */
export const SPACES = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
export const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
