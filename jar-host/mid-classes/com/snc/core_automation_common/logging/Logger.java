package com.snc.core_automation_common.logging;

/**
 * Takes a resolver's log lines and drops them: public resolvers log whole vault replies, and no scrubbing finds a secret
 * that nobody told us yet.
 */
public class Logger {
    public void trace(String message) {}

    public void trace(String format, Object... arguments) {}

    public void debug(String message) {}

    public void debug(String format, Object... arguments) {}

    public void info(String message) {}

    public void info(String format, Object... arguments) {}

    public void warn(String message) {}

    public void warn(String format, Object... arguments) {}

    public void warn(String message, Throwable thrown) {}

    public void warn(Throwable thrown) {}

    public void error(String message) {}

    public void error(String format, Object... arguments) {}

    public void error(String message, Throwable thrown) {}

    public void error(Throwable thrown) {}

    public boolean isTraceEnabled() {
        return false;
    }

    public boolean isDebugEnabled() {
        return false;
    }

    public boolean isInfoEnabled() {
        return false;
    }

    public boolean isWarnEnabled() {
        return false;
    }

    public boolean isErrorEnabled() {
        return false;
    }
}
