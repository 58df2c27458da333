package javapasswordsdk;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;
import javapasswordsdk.exceptions.PSDKException;

/**
 * A stand-in for CyberArk's SDK with the real one's signatures; talks to the fake vault on loopback. One connection for
 * each request: lines key=value with percent-encoded values, an empty line; the answer is OK and such lines, or one line
 * ERR CODE TEXT, then an empty line. For tests only.
 */
public final class PasswordSDK {
    private PasswordSDK() {}

    public static PSDKPassword getPassword(PSDKPasswordRequest request) throws PSDKException {
        if (request.appId.isEmpty() && request.query.isEmpty()) {
            throw new PSDKException("APPPR010E Mandatory parameter is missing");
        }
        try (Socket socket = new Socket()) {
            socket.connect(new InetSocketAddress("127.0.0.1", Integer.parseInt(request.port)), request.timeoutMillis);
            socket.setSoTimeout(request.timeoutMillis);
            OutputStream out = socket.getOutputStream();
            out.write(message(request).getBytes(StandardCharsets.UTF_8));
            out.flush();
            return answer(new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8)));
        } catch (IOException e) {
            throw new PSDKException("APPAP007E Connection to the Vault has failed");
        }
    }

    private static String message(PSDKPasswordRequest request) {
        StringBuilder query = new StringBuilder();
        request.query.forEach((name, value) -> query.append(query.length() == 0 ? "" : ";").append(name).append('=').append(value));
        StringBuilder message = new StringBuilder();
        line(message, "op", "GetPassword");
        line(message, "AppID", request.appId);
        line(message, "Query", request.explicitQuery == null ? query.toString() : request.explicitQuery);
        line(message, "RequiredProps", String.join(",", request.requiredProperties));
        line(message, "Reason", request.reason);
        line(message, "client", "sdk");
        request.attributes.forEach((name, value) -> line(message, name, value));
        return message.append('\n').toString();
    }

    private static void line(StringBuilder message, String name, String value) {
        message.append(name).append('=');
        for (byte each : value.getBytes(StandardCharsets.UTF_8)) {
            char c = (char) (each & 0xFF);
            boolean plain = c < 128 && (Character.isLetterOrDigit(c) || "-._~".indexOf(c) >= 0);
            message.append(plain ? String.valueOf(c) : String.format("%%%02X", (int) c));
        }
        message.append('\n');
    }

    private static PSDKPassword answer(BufferedReader in) throws IOException, PSDKException {
        String status = in.readLine();
        if (status == null) {
            throw new IOException("no answer");
        }
        if (status.startsWith("ERR ")) {
            String[] parts = status.split(" ", 3);
            throw new PSDKException(parts[1] + " " + (parts.length > 2 ? decode(parts[2]) : ""));
        }
        if (!status.equals("OK")) {
            throw new IOException("no answer");
        }
        Map<String, String> properties = new LinkedHashMap<>();
        for (String line = in.readLine(); line != null && !line.isEmpty(); line = in.readLine()) {
            int at = line.indexOf('=');
            if (at > 0) {
                properties.put(line.substring(0, at), decode(line.substring(at + 1)));
            }
        }
        return new PSDKPassword(properties);
    }

    private static String decode(String text) {
        // URLDecoder also turns a plus into a space, which percent-encoding does not.
        return URLDecoder.decode(text.replace("+", "%2B"), StandardCharsets.UTF_8);
    }
}
