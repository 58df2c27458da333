package bench;

import java.net.URL;
import java.security.SecureRandom;
import java.security.cert.X509Certificate;
import java.util.HashMap;
import java.util.Map;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/**
 * A resolver that does as its identifier says: "sleep:N" waits N milliseconds, as for a vault; "https" asks the server of
 * the parameter ext.cred.url; anything else takes no time. The client id is the call's own time in nanoseconds.
 */
public final class BenchResolver {
    private String url;

    public void config(Map<String, String> configuration) {
        url = configuration.get("ext.cred.url");
    }

    public Map<String, String> resolve(Map<String, String> args) throws Exception {
        long started = System.nanoTime();
        String id = args.get("id");
        if (id.startsWith("sleep:")) {
            Thread.sleep(Long.parseLong(id.substring("sleep:".length())));
        } else if (id.equals("https")) {
            HttpsURLConnection connection = (HttpsURLConnection) new URL(url).openConnection();
            connection.setSSLSocketFactory(anyServer().getSocketFactory());
            connection.setHostnameVerifier((host, session) -> true);
            // Whatever it answers: the handshake is what takes memory.
            connection.getResponseCode();
        }
        Map<String, String> result = new HashMap<>();
        result.put("pswd", "bench");
        result.put("user", Long.toString(System.nanoTime() - started));
        return result;
    }

    public String getVersion() {
        return "1.0";
    }

    /** What is measured is the JVM's memory, not whom it trusts. */
    private static SSLContext anyServer() throws Exception {
        X509TrustManager any = new X509TrustManager() {
            public void checkClientTrusted(X509Certificate[] chain, String type) {}

            public void checkServerTrusted(X509Certificate[] chain, String type) {}

            public X509Certificate[] getAcceptedIssuers() {
                return new X509Certificate[0];
            }
        };
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {any}, new SecureRandom());
        return context;
    }
}
