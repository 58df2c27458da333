package dev.midward.jarhost;

import java.io.File;
import java.io.IOException;
import java.net.URL;
import java.net.URLClassLoader;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.jar.JarFile;

/** Loads from the customer's JARs first, from ours only what they lack; the platform's own packages stay its own. */
final class CustomerLoader extends URLClassLoader {
    static {
        ClassLoader.registerAsParallelCapable();
    }

    private CustomerLoader(URL[] urls, ClassLoader parent) {
        super(urls, parent);
    }

    /** Reads jar, lib.0, lib.1, ... (the customer's) and mid.0, mid.1, ... (ours and the libraries JARs assume). */
    static CustomerLoader open(Map<String, String> configuration) throws Refusal, IOException {
        File jar = new File(configuration.get("jar"));
        if (!jar.isFile()) {
            throw new Refusal("jar_missing", null);
        }
        try (JarFile file = new JarFile(jar, false)) {
            if (!file.entries().hasMoreElements()) {
                throw new Refusal("not_a_jar", null);
            }
        } catch (IOException unreadable) {
            throw new Refusal("not_a_jar", null);
        }
        ClassLoader platform = ClassLoader.getPlatformClassLoader();
        URL[] ours = urls(configuration, "mid.", null);
        ClassLoader mid = new URLClassLoader("mid", ours, platform);
        return new CustomerLoader(urls(configuration, "lib.", jar), mid);
    }

    private static URL[] urls(Map<String, String> configuration, String prefix, File first) throws IOException {
        List<URL> urls = new ArrayList<>();
        if (first != null) {
            urls.add(first.toURI().toURL());
        }
        for (int i = 0; configuration.get(prefix + i) != null; i++) {
            urls.add(new File(configuration.get(prefix + i)).toURI().toURL());
        }
        return urls.toArray(new URL[0]);
    }

    @Override
    protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
        synchronized (getClassLoadingLock(name)) {
            Class<?> loaded = findLoadedClass(name);
            if (loaded == null && !name.startsWith("java.")) {
                try {
                    loaded = findClass(name);
                } catch (ClassNotFoundException elsewhere) {
                    loaded = null;
                }
            }
            if (loaded == null) {
                loaded = getParent().loadClass(name);
            }
            if (resolve) {
                resolveClass(loaded);
            }
            return loaded;
        }
    }

    @Override
    public URL getResource(String name) {
        URL own = findResource(name);
        return own != null ? own : super.getResource(name);
    }

    /** Loads a class and says why it cannot be loaded. */
    Class<?> require(String name) throws Refusal {
        try {
            return Class.forName(name, true, this);
        } catch (ClassNotFoundException e) {
            throw new Refusal("class_not_found", name);
        } catch (UnsupportedClassVersionError e) {
            throw new Refusal("class_version", name);
        } catch (NoClassDefFoundError e) {
            throw new Refusal("class_needs_missing_class", Names.type(e.getMessage()));
        } catch (LinkageError e) {
            throw new Refusal("class_unloadable", e.getClass().getName());
        }
    }
}
