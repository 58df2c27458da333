package com.snc.discovery;

import com.service_now.mid.services.Config;
import com.snc.automation_common.integration.creds.IExternalCredential;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

/**
 * A sample resolver: asks CyberArk's Credential Provider through its command line. The account's UserName is the OAuth
 * client's id, its Password the client's secret.
 *
 * <p>Parameters: ext.cred.app_id, ext.cred.safe_name, ext.cred.safe_folder, ext.cred.safe_timeout (seconds),
 * ext.cred.aim_port, safe.cred.split.string (the separator in credential identifiers).
 */
public final class CredentialResolver implements IExternalCredential {
    private static final String DEFAULT_CLIENT = "/opt/CARKaim/sdk/clipasswordsdk";
    private static final int MAX_OUTPUT = 64 * 1024;
    private static final SecureRandom RANDOM = new SecureRandom();

    private Map<String, String> configuration = new HashMap<>();

    @Override
    public void config(Map<String, String> configuration) {
        this.configuration = configuration;
    }

    @Override
    public String getVersion() {
        return "1.0";
    }

    @Override
    public Map<String, String> resolve(Map<String, String> arguments) {
        String[] parts = parse(arguments.get(ARG_ID));
        // 128 random bits between the values: nothing inside a secret can pass for it.
        String separator = "|" + new BigInteger(128, RANDOM).toString(36) + "|";
        List<String> command = command(parts, separator);
        char[] output = run(command);
        try {
            return split(output, separator);
        } finally {
            Arrays.fill(output, '\0');
        }
    }

    private String[] parse(String id) {
        if (id == null || id.isEmpty()) {
            throw new IllegalArgumentException("credential identifier missing");
        }
        for (int i = 0; i < id.length(); i++) {
            char c = id.charAt(i);
            if (c == ';' || c == '"' || c < ' ' || c == 127) {
                throw new IllegalArgumentException("credential identifier malformed");
            }
        }
        String[] parts = id.split(Pattern.quote(Config.get().getProperty("safe.cred.split.string", ":")), -1);
        if (parts.length > 3) {
            throw new IllegalArgumentException("credential identifier malformed");
        }
        String safe = parts.length > 1 ? parts[0] : "";
        String object = parts.length > 1 ? parts[1] : parts[0];
        String platform = parts.length > 2 ? parts[2] : "";
        return new String[] {safe.isEmpty() ? parameter("ext.cred.safe_name", "") : safe, object, platform};
    }

    private List<String> command(String[] parts, String separator) {
        String client = System.getenv("AIM_CLIPASSWORDSDK_CMD");
        StringBuilder query = new StringBuilder();
        if (!parts[0].isEmpty()) {
            query.append("Safe=").append(parts[0]).append(';');
        }
        query.append("Folder=").append(parameter("ext.cred.safe_folder", "root")).append(";Object=").append(parts[1]);
        if (!parts[2].isEmpty()) {
            query.append(";PolicyID=").append(parts[2]);
        }
        List<String> command = new ArrayList<>();
        command.add(client == null || client.isEmpty() ? DEFAULT_CLIENT : client);
        command.add("GetPassword");
        command.addAll(Arrays.asList("-p", "AppDescs.AppID=" + parameter("ext.cred.app_id", "ServiceNow_MID_Server")));
        command.addAll(Arrays.asList("-p", "Query=" + query));
        command.addAll(Arrays.asList("-p", "RequiredProps=UserName"));
        String port = parameter("ext.cred.aim_port", "");
        if (!port.isEmpty()) {
            command.addAll(Arrays.asList("-p", "ConnectionParms.Port=" + port));
        }
        command.addAll(Arrays.asList("-o", "PassProps.UserName,Password", "-d", separator));
        return command;
    }

    private char[] run(List<String> command) {
        Process process;
        try {
            process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.PIPE).start();
        } catch (IOException e) {
            throw new IllegalStateException("aim_client_absent");
        }
        byte[][] streams = new byte[2][];
        Thread errors = reader(process.getErrorStream(), streams, 1);
        Thread values = reader(process.getInputStream(), streams, 0);
        byte[] out = null;
        try {
            process.getOutputStream().close();
            long millis = TimeUnit.SECONDS.toMillis(Long.parseLong(parameter("ext.cred.safe_timeout", "5")));
            if (!process.waitFor(millis, TimeUnit.MILLISECONDS)) {
                throw new IllegalStateException("aim_client_timeout");
            }
            values.join(1000);
            errors.join(1000);
            out = streams[0];
            if (process.exitValue() != 0) {
                throw new IllegalStateException(code(streams[1]));
            }
            if (out == null) {
                throw new IllegalStateException("aim_client_output");
            }
            CharBuffer decoded = StandardCharsets.UTF_8.decode(ByteBuffer.wrap(out));
            char[] chars = new char[decoded.remaining()];
            decoded.get(chars);
            Arrays.fill(decoded.array(), '\0');
            return chars;
        } catch (IOException e) {
            throw new IllegalStateException("aim_client_output");
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException("aim_client_timeout");
        } finally {
            // Looking for descendants reads all of /proc: only where there can be some.
            if (process.isAlive() || values.isAlive() || errors.isAlive()) {
                process.descendants().forEach(ProcessHandle::destroyForcibly);
                process.destroyForcibly();
            }
            if (streams[0] != null) {
                Arrays.fill(streams[0], (byte) 0);
            }
        }
    }

    private static Thread reader(InputStream in, byte[][] into, int index) {
        Thread thread = new Thread(() -> {
            Wiped buffer = new Wiped();
            byte[] chunk = new byte[4096];
            try {
                for (int n = in.read(chunk); n >= 0; n = in.read(chunk)) {
                    if (buffer.size() + n > MAX_OUTPUT) {
                        return;
                    }
                    buffer.write(chunk, 0, n);
                }
                into[index] = buffer.toByteArray();
            } catch (IOException closed) {
                // The process was ended at its deadline: there is no output to keep.
            } finally {
                Arrays.fill(chunk, (byte) 0);
                buffer.wipe();
            }
        });
        thread.setDaemon(true);
        thread.start();
        return thread;
    }

    private static Map<String, String> split(char[] output, String separator) {
        int end = output.length;
        // Exactly one line end: a secret may end in one of its own.
        if (end > 0 && output[end - 1] == '\n') {
            end--;
            if (end > 0 && output[end - 1] == '\r') {
                end--;
            }
        }
        int at = CharBuffer.wrap(output, 0, end).toString().indexOf(separator);
        if (at < 0) {
            throw new IllegalStateException("aim_client_output");
        }
        Map<String, String> result = new HashMap<>();
        put(result, VAL_USER, new String(output, 0, at));
        int from = at + separator.length();
        put(result, VAL_PSWD, new String(output, from, end - from));
        return result;
    }

    private static void put(Map<String, String> result, String name, String value) {
        if (!value.equals("<na>")) {
            result.put(name, value);
        }
    }

    /** The vault's code alone: the text beside it repeats the query. */
    private static String code(byte[] errors) {
        String text = errors == null ? "" : new String(errors, StandardCharsets.UTF_8).trim();
        String first = text.isEmpty() ? "" : text.split("[^A-Z0-9]", 2)[0];
        return first.matches("[A-Z]{4,5}[0-9]{3}[EW]") ? first : "aim_client_failed";
    }

    private String parameter(String name, String fallback) {
        String value = configuration.get(name);
        return value == null || value.isEmpty() ? fallback : value;
    }

    private static final class Wiped extends ByteArrayOutputStream {
        private Wiped() {
            // Never grows, so it leaves no unwiped copy behind.
            super(MAX_OUTPUT);
        }

        private void wipe() {
            Arrays.fill(buf, (byte) 0);
        }
    }
}
