package dev.midward.jarhost;

/** Names that may be shown: what looks like an identifier, and nothing else. */
final class Names {
    private Names() {}

    /** A class's name out of a linkage error, dotted; null when it does not look like one. */
    static String type(String raw) {
        return raw != null && raw.length() <= 200 && raw.matches("[A-Za-z_$][A-Za-z0-9_$./]*") ? raw.replace('/', '.') : null;
    }

    /** A result's key, or a placeholder. */
    static String key(String raw) {
        return raw.matches("[A-Za-z_][A-Za-z0-9_.-]{0,31}") ? raw : "(unprintable)";
    }
}
