package dev.midward.jarhost;

import java.io.BufferedInputStream;
import java.io.DataInputStream;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.util.Map;

/**
 * Runs one customer's resolver for the MID Server: frames come on descriptor 3 and leave on descriptor 4, both pipes, so
 * that whatever the JAR prints cannot be mistaken for an answer. Ends when descriptor 3 does.
 */
public final class Main {
    /** The host itself failed: no memory left for an answer, or a broken frame. */
    static final int EXIT_HOST_FAILED = 70;

    private static final String LAUNCH_MECHANISM = "jdk.lang.Process.launchMechanism";
    /** Releases that have VFORK and do not warn of it: it was the default up to 11, and 25 announces its end. */
    private static final int FIRST_POSIX_SPAWN = 12;
    private static final int LAST_QUIET_VFORK = 24;

    private Main() {}

    public static void main(String[] arguments) {
        chooseLaunchMechanism();
        try {
            OutputStream out = new FileOutputStream("/proc/self/fd/4");
            DataInputStream in = new DataInputStream(new BufferedInputStream(new FileInputStream("/proc/self/fd/3")));
            serve(in, out);
            Runtime.getRuntime().halt(0);
        } catch (Throwable failed) {
            Runtime.getRuntime().halt(EXIT_HOST_FAILED);
        }
    }

    /**
     * Starting a program through jspawnhelper, Java's default since 12, takes twice as long as the start itself: it
     * execs twice. Resolvers that run the AIM client do so for each secret. A property that is set already stays.
     */
    private static void chooseLaunchMechanism() {
        int release = Runtime.version().feature();
        if (release >= FIRST_POSIX_SPAWN && release <= LAST_QUIET_VFORK && System.getProperty(LAUNCH_MECHANISM) == null) {
            System.setProperty(LAUNCH_MECHANISM, "VFORK");
        }
    }

    private static void serve(DataInputStream in, OutputStream out) throws IOException {
        Frame first = Frame.read(in);
        if (first == null) {
            return;
        }
        if (first.type != Frame.CONFIGURE) {
            throw new IOException("no configuration");
        }
        Map<String, String> configuration = first.texts();
        Source source;
        try {
            source = "cyberark_sdk".equals(configuration.get("mode")) ? new SdkSource(configuration) : new JarSource(configuration);
        } catch (Refusal refusal) {
            refusal.frame(Frame.UNUSABLE).writeTo(out);
            return;
        } catch (Throwable thrown) {
            new Refusal("load_failed", thrown.getClass().getName()).frame(Frame.UNUSABLE).writeTo(out);
            return;
        }
        Frame ready = new Frame(Frame.READY);
        source.facts().forEach((name, value) -> ready.with(name, value));
        ready.writeTo(out);
        new Callers(source, in, out, Integer.parseInt(configuration.get("concurrency"))).serve();
    }

    static void answer(Source source, Map<String, String> call, OutputStream out) {
        String number = call.get("call");
        try {
            Frame answer;
            boolean recycle = false;
            try {
                answer = source.resolve(call);
            } catch (Refusal refusal) {
                answer = refusal.frame(Frame.FAILED);
            } catch (Error error) {
                answer = new Refusal(code(error), error.getClass().getName()).frame(Frame.FAILED);
                recycle = true;
            } catch (Exception thrown) {
                answer = new Refusal("resolver_failed", thrown.getClass().getName()).frame(Frame.FAILED);
            }
            // Asked for before the answer goes, so that no call that follows the answer lands on a damaged host.
            if (recycle) {
                new Frame(Frame.RECYCLE).writeTo(out);
            }
            answer.with("call", number).writeTo(out);
        } catch (Throwable unable) {
            Runtime.getRuntime().halt(EXIT_HOST_FAILED);
        }
    }

    private static String code(Error error) {
        if (error instanceof OutOfMemoryError) {
            return "resolver_out_of_memory";
        }
        return error instanceof StackOverflowError ? "resolver_stack_overflow" : "resolver_error";
    }
}
