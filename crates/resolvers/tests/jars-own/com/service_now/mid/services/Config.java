package com.service_now.mid.services;

/** A customer's own copy, which is not ours. */
public final class Config {
    private Config() {}

    public static String own() {
        return "own config";
    }
}
