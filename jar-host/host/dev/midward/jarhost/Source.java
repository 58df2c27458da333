package dev.midward.jarhost;

import java.util.Map;

/** Where client material comes from: a customer's resolver class, or CyberArk's SDK. */
interface Source {
    /** Facts for the READY frame: class, generation, version. */
    Map<String, String> facts();

    /** Answers one call with a RESULT frame that lacks only the call's number. Called from several threads. */
    Frame resolve(Map<String, String> call) throws Exception;
}
