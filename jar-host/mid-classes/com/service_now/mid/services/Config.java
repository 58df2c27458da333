package com.service_now.mid.services;

import java.util.HashMap;
import java.util.Map;

/** The parameters of the resolver's configuration, all of them. */
public class Config {
    private static volatile Config current = new Config(new HashMap<>());

    private final Map<String, String> properties;

    private Config(Map<String, String> properties) {
        this.properties = properties;
    }

    public static Config get() {
        return current;
    }

    public String getProperty(String name) {
        return properties.get(name);
    }

    public String getProperty(String name, String fallback) {
        String value = properties.get(name);
        return value == null ? fallback : value;
    }

    static void install(Map<String, String> properties) {
        current = new Config(properties);
    }
}
