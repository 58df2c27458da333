package dev.midward.jarhost;

import java.util.Arrays;
import java.util.List;

/** A typed failure. Neither part is text that a JAR or a vault chose freely. */
final class Refusal extends Exception {
    private static final long serialVersionUID = 1L;

    /** Whole messages that a resolver may use to say what is wrong with the AIM client; fixed words, so they may leave. */
    private static final List<String> WORDS =
            Arrays.asList("aim_client_absent", "aim_client_timeout", "aim_client_output", "aim_client_failed");

    /** Stable, snake_case. */
    final String code;
    /** Name of a class or method that is missing or that was thrown; null when there is none. */
    final String what;
    /** The vault's own code, such as APPAP004E; null when there is none. */
    final String vaultCode;

    Refusal(String code, String what) {
        this(code, what, null);
    }

    Refusal(String code, String what, String vaultCode) {
        super(code, null, false, false);
        this.code = code;
        this.what = what;
        this.vaultCode = vaultCode;
    }

    Frame frame(int type) {
        return new Frame(type).with("code", code).with("what", what).with("vault_code", vaultCode);
    }

    /** The code that a CyberArk message begins with, or one of the words above, found along the chain of causes; null when there is none. */
    static String vaultCode(Throwable thrown) {
        for (int depth = 0; thrown != null && depth < 8; depth++, thrown = thrown.getCause()) {
            String message;
            try {
                message = thrown.getMessage();
            } catch (Throwable hostile) {
                return null;
            }
            String code = leadingCode(message);
            if (code != null) {
                return code;
            }
        }
        return null;
    }

    static String leadingCode(String message) {
        if (message == null) {
            return null;
        }
        if (WORDS.contains(message)) {
            return message;
        }
        int letters = 0;
        while (letters < message.length() && message.charAt(letters) >= 'A' && message.charAt(letters) <= 'Z') {
            letters++;
        }
        int end = letters + 4;
        if (letters < 4 || letters > 5 || message.length() < end) {
            return null;
        }
        for (int i = letters; i < letters + 3; i++) {
            if (message.charAt(i) < '0' || message.charAt(i) > '9') {
                return null;
            }
        }
        char last = message.charAt(end - 1);
        boolean ends = message.length() == end || !Character.isLetterOrDigit(message.charAt(end));
        return (last == 'E' || last == 'W') && ends ? message.substring(0, end) : null;
    }
}
