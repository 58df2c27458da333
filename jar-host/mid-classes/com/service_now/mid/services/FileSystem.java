package com.service_now.mid.services;

import java.io.File;

/** Where a resolver may look for files of its own: the folder that its process was started in. */
public class FileSystem {
    private static final FileSystem CURRENT = new FileSystem();

    public static FileSystem get() {
        return CURRENT;
    }

    public File getWorkingDirectory() {
        return new File(System.getProperty("user.dir"));
    }

    public File getFile(String path) {
        File file = new File(path);
        return file.isAbsolute() ? file : new File(getWorkingDirectory(), path);
    }
}
