package javapasswordsdk;

public enum PasswordQueryFormat {
    EXACT,
    REGEXP
}
