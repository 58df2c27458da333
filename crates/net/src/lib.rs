//! Ways out: outbound HTTP/1.1 with a private CA, an authenticated proxy, and a guard on the address that is dialled.
//! Nothing is taken from the environment, no redirect is followed, no body is unbounded.
