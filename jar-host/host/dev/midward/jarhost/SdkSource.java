package dev.midward.jarhost;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** CyberArk's JavaPasswordSDK.jar, the customer's own copy, called by reflection: none of it is ours to ship. */
final class SdkSource implements Source {
    private static final String PACKAGE = "javapasswordsdk.";

    private final CustomerLoader loader;
    private final Class<?> request;
    private final Class<?> password;
    private final Method getPassword;
    private final Map<String, String> configuration;
    private final Map<String, String> facts = new LinkedHashMap<>();

    SdkSource(Map<String, String> configuration) throws Exception {
        this.configuration = configuration;
        loader = CustomerLoader.open(configuration);
        request = loader.require(PACKAGE + "PSDKPasswordRequest");
        password = loader.require(PACKAGE + "PSDKPassword");
        loader.require(PACKAGE + "exceptions.PSDKException");
        Class<?> sdk = loader.require(PACKAGE + "PasswordSDK");
        try {
            getPassword = sdk.getMethod("getPassword", request);
            request.getConstructor();
        } catch (NoSuchMethodException missing) {
            throw new Refusal("sdk_mismatch", "PasswordSDK.getPassword");
        }
        List<String> needed = new ArrayList<>(Arrays.asList("setAppID", "setSafe", "setFolder", "setObject"));
        addIf(needed, "port", "setConnectionPort");
        addIf(needed, "connection_timeout", "setConnectionTimeout");
        addIf(needed, "reason", "setReason");
        addIf(needed, "query_format", "setQueryFormat");
        for (String name : needed) {
            setter(name);
        }
        for (String name : new String[] {"getUserName", "getAttribute"}) {
            if (find(password, name) == null) {
                throw new Refusal("sdk_mismatch", "PSDKPassword." + name);
            }
        }
        if (find(password, "getSecureContent") == null && find(password, "getContent") == null) {
            throw new Refusal("sdk_mismatch", "PSDKPassword.getContent");
        }
        Package version = sdk.getPackage();
        String implementation = version == null ? null : version.getImplementationVersion();
        facts.put("class", sdk.getName());
        facts.put("generation", "cyberark_sdk");
        facts.put("version", implementation != null && implementation.matches("[A-Za-z0-9 ._+-]{1,40}") ? implementation : null);
    }

    @Override
    public Map<String, String> facts() {
        return facts;
    }

    @Override
    public Frame resolve(Map<String, String> call) throws Exception {
        Thread.currentThread().setContextClassLoader(loader);
        Object asked = request.getConstructor().newInstance();
        set(asked, "setAppID", configuration.get("app_id"));
        set(asked, "setConnectionPort", configuration.get("port"));
        set(asked, "setConnectionTimeout", configuration.get("connection_timeout"));
        set(asked, "setReason", configuration.get("reason"));
        // A query overrides every other criterion.
        boolean query = call.get("query") != null;
        set(asked, "setQuery", call.get("query"));
        set(asked, "setFolder", query ? null : configuration.get("folder"));
        set(asked, "setSafe", call.get("safe"));
        set(asked, "setUserName", call.get("user_name"));
        set(asked, "setObject", call.get("object"));
        set(asked, "setPolicyID", call.get("policy_id"));
        set(asked, "setAddress", call.get("address"));
        Method properties = find(request, "setRequiredProperties");
        if (properties != null) {
            properties.invoke(asked, new ArrayList<>(Arrays.asList("UserName", "PasswordChangeInProcess")));
        }
        Object got;
        try {
            got = getPassword.invoke(null, asked);
        } catch (InvocationTargetException e) {
            Throwable cause = e.getCause();
            if (cause instanceof NoSuchMethodError || cause instanceof UnsatisfiedLinkError) {
                throw new Refusal("sdk_mismatch", cause.getClass().getName());
            }
            if (cause instanceof Error) {
                throw (Error) cause;
            }
            throw new Refusal("vault_refused", cause.getClass().getName(), Refusal.vaultCode(cause));
        }
        if (got == null) {
            throw new Refusal("result_null", null);
        }
        try {
            String user = attribute(got, "PassProps.UserName");
            if (user == null || user.isEmpty()) {
                user = (String) find(password, "getUserName").invoke(got);
            }
            return new Frame(Frame.RESULT)
                    .with("value:user", user)
                    .with("value:pswd", content(got))
                    .with("changing", Boolean.toString("true".equalsIgnoreCase(attribute(got, "PasswordChangeInProcess"))))
                    .with("others", "");
        } catch (InvocationTargetException e) {
            throw new Refusal("vault_refused", e.getCause().getClass().getName(), Refusal.vaultCode(e.getCause()));
        } finally {
            Method dispose = find(password, "dispose");
            if (dispose != null) {
                dispose.invoke(got);
            }
        }
    }

    private byte[] content(Object got) throws ReflectiveOperationException {
        Method secure = find(password, "getSecureContent");
        if (secure == null) {
            String text = (String) find(password, "getContent").invoke(got);
            return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
        }
        char[] chars = (char[]) secure.invoke(got);
        if (chars == null) {
            return null;
        }
        ByteBuffer encoded = StandardCharsets.UTF_8.encode(CharBuffer.wrap(chars));
        byte[] bytes = new byte[encoded.remaining()];
        encoded.get(bytes);
        Arrays.fill(encoded.array(), (byte) 0);
        Arrays.fill(chars, '\0');
        return bytes;
    }

    private String attribute(Object got, String name) throws ReflectiveOperationException {
        try {
            return (String) find(password, "getAttribute").invoke(got, name);
        } catch (InvocationTargetException absent) {
            return null;
        }
    }

    private void addIf(List<String> needed, String setting, String setter) {
        if (configuration.get(setting) != null) {
            needed.add(setter);
        }
    }

    private Method setter(String name) throws Refusal {
        Method setter = find(request, name);
        if (setter == null) {
            throw new Refusal("sdk_mismatch", "PSDKPasswordRequest." + name);
        }
        return setter;
    }

    private void set(Object asked, String name, String value) throws Exception {
        if (value == null || value.isEmpty()) {
            return;
        }
        Method setter = setter(name);
        // Releases differ in whether ports and time-outs are text or numbers.
        Class<?> wanted = setter.getParameterTypes()[0];
        try {
            setter.invoke(asked, wanted == String.class ? value : (Object) Integer.valueOf(value));
        } catch (InvocationTargetException e) {
            throw new Refusal("vault_refused", e.getCause().getClass().getName(), Refusal.vaultCode(e.getCause()));
        }
    }

    private static Method find(Class<?> type, String name) {
        for (Method method : type.getMethods()) {
            boolean fits = name.startsWith("set") || name.equals("getAttribute") ? method.getParameterCount() == 1
                    : method.getParameterCount() == 0;
            if (method.getName().equals(name) && fits) {
                return method;
            }
        }
        return null;
    }
}
