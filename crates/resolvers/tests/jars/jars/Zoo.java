package jars;

import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.AbstractMap;
import java.util.AbstractSet;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** Misbehaves as its identifier says; "good" is answered well. What Moody and Odd do is not repeated here. */
public class Zoo extends Jars.Base {
    private static final Object LEFT = new Object();
    private static final Object RIGHT = new Object();
    private static final List<Object> KEPT = new ArrayList<>();

    public Map<String, String> resolve(Map<String, String> args) {
        try {
            Map<String, String> odd = misbehave(args.get("id"));
            return odd == null ? Jars.good(args.get("id")) : odd;
        } catch (Exception e) {
            throw new IllegalStateException("hunter2", e);
        }
    }

    private static Map<String, String> misbehave(String how) throws Exception {
        switch (how) {
            case "deadlock":
                Thread other = new Thread(() -> lock(RIGHT, LEFT));
                other.setDaemon(true);
                other.start();
                lock(LEFT, RIGHT);
                return null;
            case "sleep":
                Thread.sleep(600_000);
                return null;
            case "wait for a thread of its own":
                Thread endless = new Thread(() -> lock(KEPT, Thread.currentThread()));
                synchronized (KEPT) {
                    endless.start();
                    endless.join();
                }
                return null;
            case "message that never ends":
                throw new Slow();
            case "entries that never come":
                return new Odd(true);
            case "entries without end":
                return new Odd(false);
            case "entries that throw":
                return new HashMap<>() {
                    @Override
                    public Set<Map.Entry<String, String>> entrySet() {
                        throw new AssertionError("hunter2");
                    }
                };
            case "exit hook that never ends":
                Runtime.getRuntime().addShutdownHook(new Thread(() -> lock(LEFT, LEFT, 600_000)));
                System.exit(0);
                return null;
            case "stop every thread":
                for (Thread thread : Thread.getAllStackTraces().keySet()) {
                    if (thread != Thread.currentThread()) {
                        Thread.class.getMethod("stop").invoke(thread);
                    }
                }
                return null;
            case "interrupt every thread":
                Thread.getAllStackTraces().keySet().forEach(Thread::interrupt);
                return null;
            case "noise among the frames":
                try (OutputStream out = new FileOutputStream("/proc/self/fd/4")) {
                    out.write(new byte[64]);
                }
                return null;
            case "frames without end":
                try (OutputStream out = new FileOutputStream("/proc/self/fd/4")) {
                    out.write(new byte[] {127, -1, -1, -1});
                }
                return null;
            case "read the questions":
                try (FileInputStream in = new FileInputStream("/proc/self/fd/3")) {
                    in.read();
                }
                return null;
            case "every descriptor":
                while (true) {
                    KEPT.add(new FileInputStream("/dev/null"));
                }
            case "fill the disk":
                Path file = Files.createTempFile("zoo", "");
                try (OutputStream out = Files.newOutputStream(file)) {
                    byte[] chunk = new byte[1 << 20];
                    for (int i = 0; i < 300; i++) {
                        out.write(chunk);
                    }
                }
                return null;
            case "direct memory":
                while (true) {
                    KEPT.add(ByteBuffer.allocateDirect(1 << 20));
                }
            case "a string of 100 MB":
                Map<String, String> large = new HashMap<>();
                large.put("user", "u");
                large.put("pswd", "x".repeat(100 << 20));
                return large;
            case "a million entries":
                Map<String, String> many = new HashMap<>();
                for (int i = 0; i < 1_000_000; i++) {
                    many.put(Integer.toString(i, 36), "");
                }
                return many;
            case "a throwable of its own":
                throw Zoo.<RuntimeException>sneak(new Throwable("hunter2"));
            case "thread death":
                throw new ThreadDeath();
            case "linkage error":
                throw new NoClassDefFoundError("hunter2 hunter2");
            case "settings of the JVM":
                System.setOut(new PrintStream(new FileOutputStream("/dev/null")));
                System.setErr(null);
                System.getProperties().clear();
                java.util.Locale.setDefault(new java.util.Locale("tr"));
                java.util.TimeZone.setDefault(java.util.TimeZone.getTimeZone("Pacific/Apia"));
                Thread.setDefaultUncaughtExceptionHandler((thread, thrown) -> Runtime.getRuntime().halt(1));
                return null;
            case "priorities":
                Thread.getAllStackTraces().keySet().forEach(thread -> thread.setPriority(Thread.MIN_PRIORITY));
                return null;
            default:
                return null;
        }
    }

    private static void lock(Object first, Object second) {
        lock(first, second, 100);
    }

    private static void lock(Object first, Object second, long between) {
        synchronized (first) {
            try {
                Thread.sleep(between);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            synchronized (second) {
                first.notifyAll();
            }
        }
    }

    @SuppressWarnings("unchecked")
    private static <T extends Throwable> T sneak(Throwable thrown) throws T {
        throw (T) thrown;
    }

    private static final class Slow extends RuntimeException {
        @Override
        public String getMessage() {
            lock(LEFT, RIGHT, 600_000);
            return "hunter2";
        }
    }

    /** A map whose entries never come, or never end. */
    private static final class Odd extends AbstractMap<String, String> {
        private final boolean slow;

        private Odd(boolean slow) {
            this.slow = slow;
        }

        @Override
        public Set<Entry<String, String>> entrySet() {
            return new AbstractSet<>() {
                private long next;

                @Override
                public Iterator<Entry<String, String>> iterator() {
                    return new Iterator<>() {
                        @Override
                        public boolean hasNext() {
                            if (slow) {
                                lock(LEFT, RIGHT, 600_000);
                            }
                            return true;
                        }

                        @Override
                        public Entry<String, String> next() {
                            return Map.entry("k" + next++, "v");
                        }
                    };
                }

                @Override
                public int size() {
                    return 1;
                }
            };
        }
    }

    public static class ThrowsWhenLoaded extends Jars.Modern {
        static {
            if (true) {
                throw new IllegalStateException("hunter2");
            }
        }
    }

    public static class ExitsWhenLoaded extends Jars.Modern {
        static {
            Runtime.getRuntime().halt(9);
        }
    }

    public static class HangsWhenMade extends Jars.Modern {
        public HangsWhenMade() {
            lock(LEFT, RIGHT, 600_000);
        }
    }

    public static class ThrowsWhenMade extends Jars.Modern {
        public ThrowsWhenMade() {
            throw new IllegalStateException("hunter2");
        }
    }

    public abstract static class IsAbstract extends Jars.Modern {}

    public static class HasHostileVersion extends Jars.Modern {
        @Override
        public String getVersion() {
            throw new AssertionError("hunter2");
        }
    }

    public static class HasLongVersion extends Jars.Modern {
        @Override
        public String getVersion() {
            return "hunter2\n".repeat(1 << 20);
        }
    }
}
