package jars;

import com.service_now.mid.services.Config;
import com.snc.automation_common.integration.creds.IExternalCredential;
import com.snc.core_automation_common.logging.Logger;
import com.snc.core_automation_common.logging.LoggerFactory;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;

/** Resolvers as customers write them: good, old, odd and hostile. Each answers "id-X" and "secret-X" when well. */
public final class Jars {
    private Jars() {}

    static Map<String, String> good(Object id) {
        Map<String, String> result = new HashMap<>();
        result.put("user", "id-" + id);
        result.put("pswd", "secret-" + id);
        result.put("passphrase", null);
        return result;
    }

    @SuppressWarnings({"rawtypes", "unchecked"})
    public static class Legacy {
        public Map resolve(Map args) {
            return good(args.get("id") + "/" + args.get("type") + "/" + args.get("mid") + "/" + args.get("ip"));
        }

        public String getVersion() {
            return "0.9";
        }
    }

    public abstract static class Base implements IExternalCredential {
        Map<String, String> configuration;

        public void config(Map<String, String> configuration) {
            this.configuration = configuration;
        }

        public String getVersion() {
            return "2.1";
        }
    }

    public static class Modern extends Base {
        private static final Logger LOG = LoggerFactory.getLogger(Modern.class);

        public Map<String, String> resolve(Map<String, String> args) {
            LOG.info("resolving {}", args.get(ARG_ID));
            Map<String, String> result = new HashMap<>();
            result.put(VAL_CLIENT_ID, configuration + "/" + Config.get().getProperty("other") + "/" + Config.get().getProperty("no", "fallback"));
            result.put(VAL_SECRET_KEY, "secret-" + args.get(ARG_ID));
            return result;
        }
    }

    public static class WithGetter {
        private final Function<String, String> properties;

        public WithGetter(Function<String, String> properties) {
            this.properties = properties;
        }

        public Map<String, String> resolve(Map<String, String> args) {
            return good(properties.apply("mid.external_credentials.vault.address"));
        }
    }

    public static class Stateful extends Base {
        private String last;

        public Map<String, String> resolve(Map<String, String> args) {
            last = last == null ? args.get("id") : last;
            return good(last);
        }
    }

    public static class Printer extends Base {
        public Map<String, String> resolve(Map<String, String> args) {
            for (int i = 0; i < 20_000; i++) {
                System.out.println("the password is secret-" + args.get("id"));
                System.err.println("the password is secret-" + args.get("id"));
            }
            return good(args.get("id"));
        }
    }

    public static class Moody extends Base {
        private static final List<Object> LEAK = new ArrayList<>();

        public Map<String, String> resolve(Map<String, String> args) {
            switch (args.get("id")) {
                case "exit":
                    System.exit(3);
                    break;
                case "halt":
                    Runtime.getRuntime().halt(4);
                    break;
                case "loop":
                    while (true) {
                        LEAK.size();
                    }
                case "child":
                    try {
                        new ProcessBuilder("/bin/sh", "-c", "echo $$ > \"$PID_FILE\"; exec sleep 600").start().waitFor();
                    } catch (Exception e) {
                        throw new IllegalStateException(e);
                    }
                    break;
                case "memory":
                    List<byte[]> all = new ArrayList<>();
                    while (true) {
                        all.add(new byte[1 << 20]);
                    }
                case "stack":
                    return resolve(args);
                case "native crash":
                    unsafe("putAddress", new Class<?>[] {long.class, long.class}, 0L, 1L);
                    break;
                case "leak":
                    long size = 160L << 20;
                    Object at = unsafe("allocateMemory", new Class<?>[] {long.class}, size);
                    unsafe("setMemory", new Class<?>[] {long.class, long.class, byte.class}, at, size, (byte) 1);
                    break;
                case "threads":
                    for (int i = 0; i < 100; i++) {
                        Thread thread = new Thread(() -> touch(400));
                        thread.setDaemon(true);
                        thread.start();
                    }
                    break;
                case "throw":
                    throw new IllegalStateException("vault said hunter2");
                case "vault":
                    throw new IllegalStateException(new RuntimeException("APPAP004E Password object hunter2 was not found"));
                case "forged":
                    throw new IllegalStateException("HUNTR222E");
                default:
                    break;
            }
            return good(args.get("id") + "@" + ProcessHandle.current().pid());
        }

        private static Object unsafe(String name, Class<?>[] types, Object... values) {
            try {
                Class<?> type = Class.forName("sun.misc.Unsafe");
                java.lang.reflect.Field field = type.getDeclaredField("theUnsafe");
                field.setAccessible(true);
                return type.getMethod(name, types).invoke(field.get(null), values);
            } catch (ReflectiveOperationException e) {
                throw new IllegalStateException(e);
            }
        }

        /** Uses much of this thread's stack, and keeps it. */
        private static void touch(int depth) {
            if (depth > 0) {
                touch(depth - 1);
                return;
            }
            try {
                Thread.sleep(600_000);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /** The call "wait" says that it is there and waits until it is let go. */
    public static class Gate extends Base {
        public Map<String, String> resolve(Map<String, String> args) {
            java.io.File folder = new java.io.File(System.getenv("GATE"));
            try {
                if (args.get("id").equals("wait")) {
                    new java.io.File(folder, "entered").createNewFile();
                    while (!new java.io.File(folder, "open").exists()) {
                        Thread.sleep(1);
                    }
                }
            } catch (java.io.IOException | InterruptedException e) {
                throw new IllegalStateException(e);
            }
            return good(args.get("id") + "@" + ProcessHandle.current().pid());
        }
    }

    @SuppressWarnings({"rawtypes", "unchecked"})
    public static class Odd {
        public Map resolve(Map args) {
            Map result = new HashMap();
            switch ((String) args.get("id")) {
                case "null":
                    return null;
                case "empty":
                    return result;
                case "numbers":
                    result.put("user", 5);
                    return result;
                case "nullkey":
                    result.put(null, "x");
                    return result;
                case "large":
                    result.put("user", "x".repeat(70_000));
                    return result;
                case "many":
                    for (int i = 0; i < 100_000; i++) {
                        result.put("k" + i, "v");
                    }
                    return result;
                case "names":
                    result.put("user", "u");
                    result.put("passwort", "hunter2");
                    result.put("has space", "x");
                    return result;
                case "null value":
                    result.put("user", "u");
                    result.put("pswd", null);
                    return result;
                default:
                    return result;
            }
        }
    }

    public static class BadConfig extends Modern {
        @Override
        public void config(Map<String, String> configuration) {
            throw new IllegalArgumentException("hunter2");
        }
    }

    public static class NoConstructor extends Modern {
        public NoConstructor(int number) {}
    }

    public static class NoMethod {}

    public static class Environment extends Base {
        public Map<String, String> resolve(Map<String, String> args) {
            List<String> names = new ArrayList<>(System.getenv().keySet());
            names.sort(null);
            Map<String, String> result = new HashMap<>();
            result.put("user", String.join(",", names));
            result.put("pswd", String.valueOf(System.getenv("LISTED")));
            return result;
        }
    }
}
