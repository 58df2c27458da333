import com.snc.automation_common.integration.creds.IExternalCredential;
import com.service_now.mid.services.Config;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.Method;
import java.util.HashMap;
import java.util.Map;

/**
 * A resolver JAR without Midward around it: no sandbox, no frames, no second process. For each credential identifier
 * that it reads, it calls the resolver on a fresh object and prints how many nanoseconds that took.
 *
 * <p>Arguments: the resolver's class, then its parameters as name=value.
 */
public final class JarAlone {
    public static void main(String[] arguments) throws Exception {
        Map<String, String> parameters = new HashMap<>();
        for (int i = 1; i < arguments.length; i++) {
            String[] pair = arguments[i].split("=", 2);
            parameters.put(pair[0], pair[1]);
        }
        // The MID sets it before it loads a resolver; nobody else may.
        Method install = Config.class.getDeclaredMethod("install", Map.class);
        install.setAccessible(true);
        install.invoke(null, parameters);

        BufferedReader identifiers = new BufferedReader(new InputStreamReader(System.in));
        for (String id = identifiers.readLine(); id != null; id = identifiers.readLine()) {
            Map<String, String> call = new HashMap<>(Map.of("id", id, "type", "oauth_2_0", "mid", "bench"));
            long started = System.nanoTime();
            Object resolver = Class.forName(arguments[0]).getDeclaredConstructor().newInstance();
            ((IExternalCredential) resolver).config(new HashMap<>(parameters));
            Map<String, String> fields = ((IExternalCredential) resolver).resolve(call);
            long took = System.nanoTime() - started;
            if (!fields.containsKey("user") || !fields.containsKey("pswd")) {
                throw new IllegalStateException("the resolver returned no client");
            }
            System.out.println(took);
        }
    }
}
