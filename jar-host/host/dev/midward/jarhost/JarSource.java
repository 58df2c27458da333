package dev.midward.jarhost;

import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;

/**
 * A customer's resolver class of either generation, reached by reflection only: a JAR may carry an interface of its own
 * under the known name. Every call gets a fresh object, because public resolvers keep state between calls.
 */
final class JarSource implements Source {
    private static final String INTERFACE = "com.snc.automation_common.integration.creds.IExternalCredential";
    private static final String CONFIG = "com.service_now.mid.services.Config";
    private static final int MAX_KEYS = 64;
    private static final int MAX_VALUE_BYTES = 64 * 1024;
    private static final List<String> KNOWN = Arrays.asList("user", "client_id", "pswd", "client_secret", "secret_key",
            "password", "pkey", "private_key", "certificate", "key_id", "kid", "subject_token", "actor_token");

    private final CustomerLoader loader;
    private final Class<?> type;
    private final Constructor<?> constructor;
    private final Method resolve;
    private final Method config;
    private final Map<String, String> parameters = new HashMap<>();
    private final Map<String, String> external = new HashMap<>();
    private final Map<String, String> facts = new LinkedHashMap<>();

    JarSource(Map<String, String> configuration) throws Exception {
        for (Map.Entry<String, String> entry : configuration.entrySet()) {
            if (entry.getKey().startsWith("param:")) {
                String name = entry.getKey().substring("param:".length());
                parameters.put(name, entry.getValue());
                if (name.startsWith("ext.cred")) {
                    external.put(name, entry.getValue());
                }
            }
        }
        loader = CustomerLoader.open(configuration);
        installConfig();
        type = loader.require(configuration.get("class"));
        constructor = constructor();
        resolve = method("resolve", Map.class);
        if (resolve == null) {
            throw new Refusal("no_resolve_method", type.getName());
        }
        config = method("config", Map.class);
        Object first = fresh("constructor_failed", "config_failed");
        facts.put("class", type.getName());
        facts.put("generation", implementsInterface(type) ? "interface" : "legacy");
        facts.put("version", version(first));
    }

    @Override
    public Map<String, String> facts() {
        return facts;
    }

    @Override
    public Frame resolve(Map<String, String> call) throws Exception {
        Map<String, String> arguments = new HashMap<>();
        for (String name : new String[] {"id", "ip", "type", "mid"}) {
            if (call.get(name) != null) {
                arguments.put(name, call.get(name));
            }
        }
        Thread.currentThread().setContextClassLoader(loader);
        Object resolver = fresh("resolver_failed", "resolver_failed");
        Object result;
        try {
            result = resolve.invoke(resolver, arguments);
        } catch (InvocationTargetException e) {
            throw rethrown(e.getCause(), "resolver_failed");
        }
        if (result == null) {
            throw new Refusal("result_null", null);
        }
        return frame((Map<?, ?>) result);
    }

    private static Frame frame(Map<?, ?> result) throws Refusal {
        Frame frame = new Frame(Frame.RESULT);
        List<String> others = new ArrayList<>();
        int seen = 0;
        for (Map.Entry<?, ?> entry : result.entrySet()) {
            if (++seen > MAX_KEYS) {
                throw new Refusal("result_too_many_keys", null);
            }
            Object key = entry.getKey();
            Object value = entry.getValue();
            if (key == null) {
                throw new Refusal("result_null_key", null);
            }
            if (!(key instanceof String)) {
                throw new Refusal("result_not_text", null);
            }
            if (value == null) {
                continue;
            }
            if (!(value instanceof String)) {
                throw new Refusal("result_not_text", KNOWN.contains(key) ? (String) key : null);
            }
            String text = (String) value;
            if (text.length() > MAX_VALUE_BYTES) {
                throw new Refusal("result_too_large", KNOWN.contains(key) ? (String) key : null);
            }
            if (KNOWN.contains(key)) {
                byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
                if (bytes.length > MAX_VALUE_BYTES) {
                    throw new Refusal("result_too_large", (String) key);
                }
                frame.with("value:" + key, bytes);
            } else {
                others.add(key.equals(value) ? "(unprintable)" : Names.key((String) key));
            }
        }
        return frame.with("others", String.join(",", others));
    }

    /** Map<String,String> is all that a result may be, but a legacy method may return any object. */
    private Constructor<?> constructor() throws Refusal {
        try {
            Constructor<?> plain = type.getDeclaredConstructor();
            plain.setAccessible(true);
            return plain;
        } catch (NoSuchMethodException none) {
            // HashiCorp's JAR has only the one below.
        } catch (NoClassDefFoundError e) {
            throw new Refusal("class_needs_missing_class", Names.type(e.getMessage()));
        }
        try {
            Constructor<?> getter = type.getDeclaredConstructor(Function.class);
            getter.setAccessible(true);
            return getter;
        } catch (NoSuchMethodException none) {
            throw new Refusal("no_constructor", type.getName());
        }
    }

    private Method method(String name, Class<?>... parameterTypes) throws Refusal {
        try {
            Method method = type.getMethod(name, parameterTypes);
            method.setAccessible(true);
            return method;
        } catch (NoSuchMethodException none) {
            return null;
        } catch (NoClassDefFoundError e) {
            throw new Refusal("class_needs_missing_class", Names.type(e.getMessage()));
        }
    }

    private Object fresh(String constructing, String configuring) throws Exception {
        Thread.currentThread().setContextClassLoader(loader);
        Object resolver;
        try {
            Function<String, String> properties = parameters::get;
            resolver = constructor.getParameterCount() == 0 ? constructor.newInstance() : constructor.newInstance(properties);
        } catch (InvocationTargetException e) {
            throw rethrown(e.getCause(), constructing);
        } catch (InstantiationException e) {
            throw new Refusal("no_constructor", type.getName());
        }
        if (config != null) {
            try {
                config.invoke(resolver, new HashMap<>(external));
            } catch (InvocationTargetException e) {
                throw rethrown(e.getCause(), configuring);
            }
        }
        return resolver;
    }

    private static Exception rethrown(Throwable cause, String code) {
        if (cause instanceof NoClassDefFoundError) {
            return new Refusal("class_needs_missing_class", Names.type(cause.getMessage()));
        }
        if (cause instanceof Error) {
            throw (Error) cause;
        }
        return new Refusal(code, cause.getClass().getName(), Refusal.vaultCode(cause));
    }

    private static boolean implementsInterface(Class<?> type) {
        for (Class<?> at = type; at != null; at = at.getSuperclass()) {
            for (Class<?> each : at.getInterfaces()) {
                if (each.getName().equals(INTERFACE)) {
                    return true;
                }
            }
        }
        return false;
    }

    private String version(Object resolver) throws Refusal {
        Method method = method("getVersion");
        if (method == null) {
            return null;
        }
        try {
            Object version = method.invoke(resolver);
            String text = version == null ? "" : version.toString();
            return text.matches("[A-Za-z0-9 ._+-]{1,40}") ? text : null;
        } catch (ReflectiveOperationException | RuntimeException e) {
            return null;
        }
    }

    /** Hands the parameters to the Config class that the JAR will see, unless the JAR brings its own. */
    private void installConfig() throws Refusal {
        try {
            Class<?> seen = Class.forName(CONFIG, true, loader);
            Method install = seen.getDeclaredMethod("install", Map.class);
            install.setAccessible(true);
            install.invoke(null, new HashMap<>(parameters));
        } catch (ClassNotFoundException e) {
            throw new Refusal("class_not_found", CONFIG);
        } catch (ReflectiveOperationException own) {
            // The customer's JAR has its own Config: it wins.
        }
    }
}
