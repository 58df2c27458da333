package jars;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.service_now.mid.services.Config;
import com.service_now.mid.services.FileSystem;
import com.snc.automation_common.integration.creds.IExternalCredential;
import com.snc.core_automation_common.logging.Logger;
import com.snc.core_automation_common.logging.LoggerFactory;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.function.Function;
import org.apache.commons.codec.binary.Base64;
import org.apache.commons.io.FileUtils;
import org.apache.commons.io.IOUtils;
import org.apache.commons.logging.Log;
import org.apache.commons.logging.LogFactory;
import org.apache.http.HttpResponse;
import org.apache.http.client.entity.UrlEncodedFormEntity;
import org.apache.http.client.methods.CloseableHttpResponse;
import org.apache.http.client.methods.HttpGet;
import org.apache.http.client.methods.HttpPost;
import org.apache.http.client.methods.HttpUriRequest;
import org.apache.http.impl.client.CloseableHttpClient;
import org.apache.http.impl.client.HttpClients;
import org.apache.http.message.BasicNameValuePair;
import org.apache.http.util.EntityUtils;

/** Resolvers in the shape of the public ones, with what those import and with their habits, good and bad. */
public final class Shapes {
    private Shapes() {}

    /** Keeps the safe of the last qualified identifier, and turns every failure into empty text. */
    public static class SafeInField implements IExternalCredential {
        private static final Logger LOG = LoggerFactory.getLogger(SafeInField.class);
        private String safe;

        public void config(Map<String, String> configuration) {
            safe = configuration.get("ext.cred.safe_name");
        }

        public Map<String, String> resolve(Map<String, String> args) {
            String user = "";
            String password = "";
            try {
                String id = args.get(ARG_ID);
                if (id.contains(":")) {
                    safe = id.substring(0, id.indexOf(':'));
                    id = id.substring(id.indexOf(':') + 1);
                }
                if (id.equals("fails")) {
                    throw new IOException("hunter2");
                }
                user = safe + "/" + id;
                password = "of " + user;
            } catch (Exception e) {
                LOG.error("cannot resolve", e);
            }
            Map<String, String> result = new HashMap<>();
            result.put(VAL_USER, user);
            result.put(VAL_PSWD, password);
            return result;
        }

        public String getVersion() {
            return "1.0";
        }
    }

    /** Only a constructor with a getter; asks over HTTP without a time-out; its exceptions hold the whole reply. */
    public static class GetterAndHttp {
        private final Function<String, String> getProperty;

        public GetterAndHttp(Function<String, String> getProperty) {
            this.getProperty = getProperty;
        }

        public Map<String, String> resolve(Map<String, String> args) throws IOException {
            String address = getProperty.apply("mid.external_credentials.vault.address");
            HttpGet request = new HttpGet(address + "/v1/" + args.get(IExternalCredential.ARG_ID));
            request.addHeader("accept", "application/json");
            String body = ask(request);
            JsonObject reply = new Gson().fromJson(body, JsonObject.class);
            if (!reply.has("data")) {
                throw new IllegalStateException("the vault answered " + body);
            }
            JsonObject data = reply.getAsJsonObject("data").getAsJsonObject("data");
            Map<String, String> result = new HashMap<>();
            result.put(IExternalCredential.VAL_USER, data.get("username").getAsString());
            result.put(IExternalCredential.VAL_PSWD, data.get("password").getAsString());
            return result;
        }

        public String getVersion() {
            return "1.0";
        }
    }

    /** Legacy: everything stands in a file that an environment variable names. */
    public static class PropertiesFile {
        private static final Log LOG = LogFactory.getLog(PropertiesFile.class);
        private final Properties properties = new Properties();

        public PropertiesFile() throws IOException {
            File file = new File(System.getenv("CREDENTIAL_RESOLVER_FILE"));
            LOG.info("reading " + file);
            try (InputStream in = FileUtils.openInputStream(file)) {
                properties.load(IOUtils.toBufferedReader(new java.io.InputStreamReader(in, StandardCharsets.ISO_8859_1)));
            }
        }

        @SuppressWarnings("rawtypes")
        public Map resolve(Map args) {
            String prefix = args.get("id") + "." + args.get("type") + ".";
            Map<String, String> result = new HashMap<>();
            result.put("user", properties.getProperty(prefix + "user"));
            String encoded = properties.getProperty(prefix + "pswd");
            result.put("pswd", encoded == null ? null : new String(Base64.decodeBase64(encoded), StandardCharsets.UTF_8));
            return result;
        }

        public String getVersion() {
            return "0.1";
        }
    }

    /** Its settings are parameters of its own prefix, its own credentials come from a file below the MID's folder. */
    public static class OwnPrefix implements IExternalCredential {
        private static final Logger LOG = LoggerFactory.getLoggerForName("own-prefix");

        public void config(Map<String, String> configuration) {}

        public Map<String, String> resolve(Map<String, String> args) {
            try {
                Config config = Config.get();
                String url = config.getProperty("ext.tss.url");
                File file = FileSystem.get().getFile(config.getProperty("ext.tss.file", "none"));
                String[] own = FileUtils.readFileToString(file, StandardCharsets.UTF_8).trim().split(":");
                HttpPost login = new HttpPost(url + "/oauth2/token");
                login.setEntity(new UrlEncodedFormEntity(Arrays.asList(new BasicNameValuePair("username", own[0]),
                        new BasicNameValuePair("password", own[1]), new BasicNameValuePair("grant_type", "password"))));
                String token = JsonParser.parseString(ask(login)).getAsJsonObject().get("access_token").getAsString();
                HttpGet read = new HttpGet(url + "/api/v1/secrets/" + args.get(ARG_ID));
                read.addHeader("Authorization", "Bearer " + token);
                Map<String, String> result = new HashMap<>();
                JsonParser.parseString(ask(read)).getAsJsonObject().getAsJsonArray("items").forEach(item -> {
                    JsonObject field = item.getAsJsonObject();
                    boolean user = field.get("slug").getAsString().equals("username");
                    result.put(user ? VAL_USER : VAL_PSWD, field.get("itemValue").getAsString());
                });
                return result;
            } catch (IOException e) {
                LOG.error("cannot resolve {}", args.get(ARG_ID));
                throw new IllegalStateException(e);
            }
        }

        public String getVersion() {
            return "3.2";
        }
    }

    private static String ask(HttpUriRequest request) throws IOException {
        try (CloseableHttpClient client = HttpClients.createDefault(); CloseableHttpResponse response = client.execute(request)) {
            return text(response);
        }
    }

    private static String text(HttpResponse response) throws IOException {
        return EntityUtils.toString(response.getEntity());
    }
}
